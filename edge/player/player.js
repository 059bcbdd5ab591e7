// The player page: picks the fastest protocol that works here, keeps it live, and shows how late.
// ?proto=ws|hls|native forces one. Texts are only ever set as text.

import { ClockBar } from './player/clock.js';
import { Edges } from './player/edges.js';
import { HlsSource, NativeSource } from './player/hls.js';
import { Backoff } from './player/rate.js';
import { WebSocketSource } from './player/websocket.js';

const NAMES = { ws: 'WebSocket', hls: 'LL-HLS', native: 'HLS' };
const STARTING = 8000; // milliseconds that a protocol has to show something
const IDLE = 2500; // milliseconds until the controls hide
const LATE = 4; // seconds
const SANE = 3600; // a latency above is a clock that is wrong

const stream = decodeURIComponent(location.pathname.split('/').pop().replace(/\.html$/, ''));
const query = new URLSearchParams(location.search);
const get = (id) => document.getElementById(id);
const stage = get('stage');
const video = get('video');
const clock = new ClockBar(video);
const backoff = new Backoff();
const edges = new Edges(stream, location.origin);

let source = null;
let protocols = [];
let reconnects = 0;
let watchdog = 0;

function addresses() {
  const path = encodeURIComponent(stream).replaceAll('%2B', '+');
  const wanted = ['video', 'audio'].filter((name) => query.has(name));
  const tracks = new URLSearchParams(wanted.map((name) => [name, query.get(name)])).toString();
  const suffix = tracks ? `?${tracks}` : '';
  return {
    ws: `${edges.base.replace(/^http/, 'ws')}/${path}.mp4${suffix}`,
    hls: `${edges.base}/cmaf/${path}/index.m3u8${suffix}`,
  };
}

async function possible() {
  const forced = query.get('proto');
  if (forced in NAMES) return [forced];
  const found = [];
  if (WebSocketSource.supported()) found.push('ws');
  if (NativeSource.supported(video) && !WebSocketSource.supported()) found.push('native');
  else found.push('hls');
  return found;
}

async function open(name) {
  const address = addresses();
  const events = { playing, failed, waiting: watch, elsewhere, moved };
  if (name === 'ws') return new WebSocketSource(video, address.ws, events);
  if (name === 'hls' && await HlsSource.supported()) {
    return new HlsSource(video, address.hls, events);
  }
  if (NativeSource.supported(video)) return new NativeSource(video, address.hls, events);
  return null;
}

async function elsewhere() {
  await edges.another();
  return addresses().ws;
}

function moved(address) {
  edges.moved(address);
}

async function reconnect() {
  await edges.another();
  await connect();
}

async function connect() {
  clearTimeout(watchdog);
  watchdog = 0;
  source?.close();
  source = await open(protocols[0]);
  if (source === null) {
    say('failed', 'This browser cannot play the stream');
    return;
  }
  if (!watchdog) watch(true);
}

// Give the source some time to show something; or none, while the server waits for the stream.
function watch(hurry) {
  clearTimeout(watchdog);
  watchdog = hurry ? setTimeout(() => {
    source.close();
    failed('Nothing came', false);
  }, STARTING) : -1;
}

function playing() {
  clearTimeout(watchdog);
  backoff.reset();
  stage.dataset.state = 'playing';
  const tag = get('protocol');
  tag.textContent = NAMES[source.protocol];
  tag.hidden = false;
  start();
}

function failed(reason, again, here = false) {
  clearTimeout(watchdog);
  if (!again && protocols.length > 1) protocols.shift();
  reconnects += 1;
  say('waiting', reason);
  setTimeout(here ? connect : reconnect, backoff.milliseconds());
}

function say(state, words) {
  stage.dataset.state = state;
  get('words').textContent = words;
}

async function start() {
  try {
    await video.play();
    get('start').hidden = true;
  } catch (error) {
    if (error.name !== 'NotAllowedError') return;
    if (!video.muted) {
      video.muted = true;
      await start();
      return;
    }
    stage.dataset.state = 'blocked';
    get('start').hidden = false;
  }
}

function toggle() {
  if (video.paused) {
    source?.live();
    start();
    stage.dataset.state = 'playing';
  } else {
    video.pause();
  }
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (stage.requestFullscreen) stage.requestFullscreen();
  else video.webkitEnterFullscreen?.();
}

function latency() {
  const seconds = source?.latency() ?? null;
  return seconds !== null && seconds > 0 && seconds < SANE ? seconds : null;
}

function refresh() {
  const seconds = latency();
  const buffer = source?.stats().buffer ?? 0;
  get('latency').textContent = seconds === null ? '' : `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  const late = (seconds ?? buffer) > LATE || video.paused;
  stage.dataset.late = late && stage.dataset.state === 'playing' ? 'yes' : 'no';
}

function mirrorState() {
  stage.dataset.paused = video.paused ? 'yes' : 'no';
  stage.dataset.muted = video.muted || video.volume === 0 ? 'yes' : 'no';
  get('play').setAttribute('aria-label', video.paused ? 'Play' : 'Pause');
  get('mute').setAttribute('aria-label', video.muted ? 'Unmute' : 'Mute');
  get('volume').value = video.muted ? 0 : video.volume;
}

function wire() {
  get('play').addEventListener('click', toggle);
  get('start').addEventListener('click', () => {
    video.muted = false;
    toggle();
  });
  get('mute').addEventListener('click', () => { video.muted = !video.muted; });
  get('volume').addEventListener('input', (event) => {
    video.volume = Number(event.target.value);
    video.muted = video.volume === 0;
  });
  get('live').addEventListener('click', () => {
    source?.live();
    if (video.paused) start();
  });
  get('full').addEventListener('click', fullScreen);
  video.addEventListener('click', toggle);
  for (const name of ['play', 'pause', 'volumechange']) video.addEventListener(name, mirrorState);
  document.addEventListener('keydown', (event) => {
    const keys = { ' ': toggle, k: toggle, f: fullScreen, m: () => { video.muted = !video.muted; } };
    if (event.target instanceof HTMLButtonElement && event.key === ' ') return;
    const action = keys[event.key];
    if (action && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      action();
    }
  });
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden && !video.paused) source?.live();
  });
  let idle = 0;
  const awake = () => {
    stage.dataset.idle = 'no';
    clearTimeout(idle);
    idle = setTimeout(() => { stage.dataset.idle = 'yes'; }, IDLE);
  };
  for (const name of ['pointermove', 'pointerdown', 'keydown']) stage.addEventListener(name, awake);
  awake();
}

window.headwater = {
  video,
  get protocol() { return source?.protocol ?? ''; },
  get edge() { return edges.base; },
  readClock: () => clock.read(),
  stats() {
    const quality = video.getVideoPlaybackQuality?.();
    return {
      protocol: this.protocol,
      state: stage.dataset.state,
      latency: latency(),
      rate: video.playbackRate,
      reconnects,
      dropped: quality?.droppedVideoFrames ?? 0,
      frames: quality?.totalVideoFrames ?? 0,
      ...source?.stats(),
    };
  },
};

document.title = `${stream} · Headwater`;
get('title').textContent = stream;
wire();
mirrorState();
setInterval(refresh, 250);
edges.follow();
protocols = await possible();
await connect();
