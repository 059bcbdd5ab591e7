// Try the seam of the player between two connections, and which edge it chooses; print JSON.
import { Edges } from '../../edge/player/edges.js';
import { Seam } from '../../edge/player/seam.js';

// A connection: codecs and init segment, then frames, the keyframes announced; `from` on.
function* connection(from, until, gop = 10) {
  yield { codecs: 'avc1.42C01E,mp4a.40.2' };
  yield { data: 'init' };
  for (let frame = from; frame < until; frame += 1) {
    if (frame % gop === 0) yield { key: frame };
    yield { data: frame };
  }
}

// Play `old` to frame 23 and on; the new connection opens at 23 with what came since keyframe 20,
// and is `ahead` frames ahead of the old one (behind: below zero).
function change(ahead, dies) {
  let done = false;
  const old = [...connection(0, 60)];
  const fresh = [...connection(20, 60)];
  const shown = [];
  let frame = -1;
  let seam = null;
  let changed = -1;
  let next = 0;
  for (const item of old) {
    if ('data' in item && item.data !== 'init') frame = item.data;
    if (frame === 23 && !seam) seam = new Seam(20);
    while (seam && next < fresh.length) {
      const last = fresh[next].data;
      if (typeof last === 'number' && last > frame + ahead) break;
      done ||= seam.add(fresh[next]);
      next += 1;
    }
    if (done || (dies && frame === 27 && seam.ready)) { changed = frame; break; }
    const what = seam?.follow(item) ?? 'play';
    if (what === 'change') { changed = frame; break; }
    if (what === 'play' && typeof item.data === 'number') shown.push(item.data);
  }
  const rest = [...seam.take(), ...fresh.slice(next)];
  shown.push(...rest.filter((item) => typeof item.data === 'number').map((item) => item.data));
  return { changed, shown, header: rest.slice(0, 2) };
}

async function choose() {
  const asked = [];
  const answers = {
    'http://e1/api/v1/edge': { node: 'e1', balancer: 'http://b', alternatives: ['http://e2'] },
    'http://b/api/v1/edge?stream=live%2Ba&not=e1': { url: 'http://e3', alternatives: ['http://e4'] },
  };
  const edges = new Edges('live+a', 'http://e1', async (url) => {
    asked.push(url);
    if (!(url in answers)) throw new Error('down');
    return { ok: true, json: async () => answers[url] };
  });
  const moved = [];
  edges.moved('ws://e1/live.mp4');
  await new Promise((done) => { setTimeout(done, 0); });
  for (let turn = 0; turn < 3; turn += 1) moved.push(await edges.another());
  edges.moved('wss://e9:8443/live+a.mp4?x=1');
  moved.push(edges.base);
  return { asked, moved };
}

console.log(JSON.stringify({
  level: change(0, false),
  ahead: change(7, false),
  behind: change(-3, false),
  dead: change(0, true),
  chosen: await choose(),
}));
process.exit(0);
