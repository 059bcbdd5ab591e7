// Asks /api/v1/size whenever something is changed, and shows the answer. The question stands in the
// address behind #, so that it can be sent to somebody.

const $ = (id) => document.getElementById(id);
const form = $("form");
const FIXED = ["protocol", "tls", "window", "recording", "cores", "memory", "network", "disk", "share"];
const RENTING = ["own", "spare", "price", "rented-price", "gigabyte", "hours"];
const RESOURCES = { cpu: "CPU", memory: "Memory", network: "Network" };
let asking = null;

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function scaled(value, unit) {
  const prefixes = ["", "k", "M", "G", "T", "P"];
  let power = 0;
  while (value >= 999.5 && power < prefixes.length - 1) { value /= 1000; power += 1; }
  const digits = value >= 99.5 || power === 0 ? 0 : value >= 9.95 ? 1 : 2;
  return `${value.toFixed(digits)} ${prefixes[power]}${unit}`;
}

const count = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });
const money = (value) => value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const cores = (value) => `${value < 10 ? value.toFixed(2) : count(value)} cores`;

function addGroup(streams, bitrate, viewers) {
  const row = element("div", "", "group");
  for (const [key, word, value] of [["streams", "Streams", streams], ["bitrate", "Mbit/s", bitrate], ["viewers", "Viewers", viewers]]) {
    const label = element("label");
    label.append(element("span", word, "word"));
    const input = element("input");
    input.dataset.key = key;
    input.inputMode = "decimal";
    input.value = value;
    input.setAttribute("aria-label", word);
    label.append(input);
    row.append(label);
  }
  const drop = element("button", "\u00d7", "drop");
  drop.type = "button";
  drop.setAttribute("aria-label", "Remove");
  drop.addEventListener("click", () => { row.remove(); ask(); });
  row.append(drop);
  $("groups").append(row);
}

function question() {
  const asked = new URLSearchParams();
  for (const row of $("groups").children) {
    const [streams, bitrate, viewers] = [...row.querySelectorAll("input")].map((input) => input.value.trim());
    asked.append("group", `${streams}x${bitrate}M:${viewers}`);
  }
  for (const name of $("overflow").checked ? [...FIXED, ...RENTING] : FIXED) {
    const field = form.elements[name];
    const text = field.value.trim();
    if (text !== "") asked.append(name, text + (field.dataset.suffix ?? ""));
  }
  return asked;
}

async function ask() {
  $("share-shown").textContent = `${Math.round(form.elements.share.value * 100)} %`;
  $("renting").hidden = !$("overflow").checked;
  const asked = question();
  history.replaceState(null, "", `#${asked}`);
  asking?.abort();
  asking = new AbortController();
  const told = document.querySelector(".told");
  told.classList.add("busy");
  try {
    const response = await fetch(`/api/v1/size?${asked}`, { signal: asking.signal });
    const answer = await response.json();
    $("error").hidden = response.ok;
    $("answer").hidden = !response.ok;
    if (response.ok) show(answer, asked);
    else $("error").textContent = answer.detail ?? "That cannot be reckoned.";
  } catch (error) {
    if (error.name === "AbortError") return;
    $("error").hidden = false;
    $("error").textContent = "The balancer does not answer.";
  }
  told.classList.remove("busy");
}

function show(answer, asked) {
  const { edges, capacity, machine } = answer;
  const viewers = answer.asked.groups.reduce((sum, group) => sum + group.viewers, 0);
  const full = edges.count ? viewers / edges.count / capacity.viewers : 0;
  $("edges").textContent = edges.possible ? count(edges.count) : "none";
  $("edges-word").textContent = edges.count === 1 ? "edge is needed" : "edges are needed";
  $("each").textContent = count(capacity.viewers);
  const because = $("because");
  because.replaceChildren();
  if (!edges.possible) because.append("An edge like this cannot even hold the streams: ");
  because.append(element("b", RESOURCES[capacity.limit]), edges.possible
    ? ` limits first. With ${count(viewers)} viewers spread over ${edges.count === 1 ? "one edge" : `${count(edges.count)} edges`}, ${count(full * 100)} % of what they can do is used.`
    : " is not enough.");
  bars(capacity);
  const table = $("needs");
  table.replaceChildren();
  const rows = [
    ["CPU", cores(edges.needs.cpu), cores(answer.origin.cpu)],
    ["Memory", scaled(edges.needs.memory, "B"), scaled(answer.origin.memory, "B")],
    ["Sent", scaled(edges.needs.sent, "bit/s"), scaled(answer.origin.sent, "bit/s")],
    ["Received", scaled(edges.needs.received, "bit/s"), scaled(answer.origin.received, "bit/s")],
  ];
  if (answer.storage) rows.push(["Disk", "", scaled(answer.storage, "B")]);
  for (const row of rows) line(table, row);
  $("storage").textContent = capacity.recording === null ? ""
    : `A disk of ${scaled(machine.disk, "B")} holds ${hours(capacity.recording)} of all streams.`;
  bill(answer, viewers);
  $("advice").hidden = answer.advice.length === 0;
  $("advised").replaceChildren(...answer.advice.map((text) => {
    const item = element("li");
    const [setting, ...why] = text.split(": ");
    item.append(element("code", setting), why.length ? `: ${why.join(": ")}` : "");
    return item;
  }));
  const mist = $("mist");
  mist.replaceChildren();
  line(mist, ["CPU", `${count(answer.mistserver.cpu_mark)} points of PassMark`]);
  line(mist, ["Memory", scaled(answer.mistserver.memory_mb * 1e6, "B")]);
  line(mist, ["Network", scaled(answer.mistserver.network_mbit * 1e6, "bit/s")]);
  line(mist, ["Disk", scaled(answer.mistserver.disk_mb * 1e6, "B")]);
  $("calibrated").textContent = answer.calibrated
    ? "Reckoned with what headwater bench measured on the balancer's machine."
    : "Reckoned with the costs measured on one core of an AMD EPYC at 2.6 GHz; headwater bench measures another machine.";
  $("command").textContent = `headwater size ${[...asked].map(([name, value]) => `--${name} ${value}`).join(" ")}`;
}

function line(table, cells, className = "") {
  const row = element("tr", "", className);
  row.append(...cells.map((text) => element("td", text)));
  table.append(row);
}

function hours(seconds) {
  if (seconds < 7200) return `${count(seconds / 60)} minutes`;
  return seconds < 172_800 ? `${count(seconds / 3600)} hours` : `${count(seconds / 86_400)} days`;
}

function drawn(parts) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", "0 0 100 1");
  picture.setAttribute("preserveAspectRatio", "none");
  let left = 0;
  for (const [share, name] of parts) {
    const part = document.createElementNS(space, "rect");
    part.setAttribute("x", left);
    part.setAttribute("width", share * 100);
    part.setAttribute("height", 1);
    if (name) part.setAttribute("class", name);
    left += share * 100;
    picture.append(part);
  }
  return picture;
}

function bars(capacity) {
  const most = Math.max(1, ...Object.values(capacity.by_resource));
  $("bars").replaceChildren(...Object.entries(capacity.by_resource).map(([name, viewers]) => {
    const row = element("div", "", name === capacity.limit ? "bar first" : "bar");
    const track = element("span", "", "track");
    track.append(drawn([[Math.max(0.004, viewers / most)]]));
    row.append(element("span", RESOURCES[name]), track, element("span", count(viewers), "value"));
    return row;
  }));
}

function bill({ overflow }, viewers) {
  $("bill").hidden = !overflow;
  if (!overflow) return;
  const own = viewers ? overflow.own_serve / viewers : 1;
  $("stack").replaceChildren(drawn([[own, "own"], [1 - own, "rented"]]));
  const rented = overflow.rented === 1 ? "one rented edge" : `${count(overflow.rented)} rented edges`;
  $("served").textContent = overflow.rented
    ? `Own edges serve ${count(overflow.own_serve)}, ${rented} the other ${count(overflow.rented_serve)} and send ${count(overflow.traffic_gigabytes)} GB an hour.`
    : `Own edges serve all ${count(viewers)}: nothing has to be rented.`;
  const table = $("money");
  table.replaceChildren();
  const cheaper = overflow.month <= overflow.month_instead;
  line(table, ["An hour of the peak", money(overflow.hour)]);
  line(table, ["A month, renting at the peak", money(overflow.month)], cheaper ? "better" : "");
  line(table, [`A month with ${count(overflow.own_instead)} own edges instead`, money(overflow.month_instead)], cheaper ? "" : "better");
  const even = overflow.breakeven_hours;
  $("even").textContent = even !== null && even < 24
    ? `Own edges are cheaper once the peak lasts ${even.toFixed(1)} hours a day.` : "";
}

function restore() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of asked) {
    const field = form.elements[name];
    if (name === "group") {
      const match = /^(\d+)x([\d.]+)M:(\d+)$/.exec(value);
      if (match) addGroup(match[1], match[2], match[3]);
    } else if (field && "value" in field) {
      field.value = value.replace(field.dataset.suffix ?? "", "");
    }
  }
  $("overflow").checked = asked.has("own");
  if (!$("groups").children.length) addGroup(1, 4, 10000);
}

restore();
$("more").addEventListener("click", () => { addGroup(1, 2, 1000); ask(); });
form.addEventListener("input", ask);
form.addEventListener("submit", (event) => event.preventDefault());
ask();
