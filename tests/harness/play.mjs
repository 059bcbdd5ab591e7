// Play a page in headless Chromium and print, as one line of JSON, what a person would have seen.
// usage: node play.mjs URL SECONDS [SCREENSHOT.png] [END]: it ends early once the file END is there.
// Latency is read off the picture: 40 cells in the top 16 rows, 8 of sync, then 32 bits of wall
// clock in milliseconds. A frame is measured when the browser presents it.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';

const [url, seconds, screenshot, end] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--autoplay-policy=no-user-gesture-required', '--mute-audio',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--disable-quic', '--no-first-run', '--disable-gpu'],
});
const page = await browser.newPage({ viewport: { width: 960, height: 640 } });
const consoleErrors = [];
const badResponses = [];
page.on('console', (message) => message.type() === 'error' && consoleErrors.push(message.text()));
page.on('pageerror', (error) => consoleErrors.push(String(error)));
page.on('response', (response) => {
  if (response.status() >= 400) badResponses.push(`${response.status()} ${response.url()}`);
});
const opened = Date.now();
await page.goto(url, { waitUntil: 'domcontentloaded' });
await page.waitForFunction(() => {
  const video = document.querySelector('video');
  return video && video.currentTime > 0 && !video.paused && video.videoWidth > 0;
}, null, { timeout: 30000, polling: 20 });
const started = Date.now() - opened;
const look = setInterval(() => {
  if (end && existsSync(end)) page.evaluate(() => { window.watchedEnough = true; }).catch(() => {});
}, 100);
const seen = await page.evaluate(async (duration) => {
  const video = document.querySelector('video');
  const canvas = new OffscreenCanvas(40, 1);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const latencies = [];
  let waits = 0;
  const waited = []; // seconds at which the player had nothing to show
  video.addEventListener('waiting', () => { waits += 1; waited.push(seconds()); });
  const read = (now) => {
    const width = video.videoWidth;
    const height = 16 * video.videoHeight / video.videoHeight;
    context.drawImage(video, 0, height / 2, width, 1, 0, 0, 40, 1);
    const pixels = context.getImageData(0, 0, 40, 1).data;
    let bits = 0;
    for (let cell = 0; cell < 40; cell += 1) {
      const bit = pixels[cell * 4] > 125 ? 1 : 0;
      if (cell < 8) {
        if (bit !== (cell % 2 === 0 ? 1 : 0)) return;
      } else {
        bits = (bits * 2 + bit) % 4294967296;
      }
    }
    const wall = (performance.timeOrigin + now) % 4294967296;
    latencies.push((wall - bits + 4294967296) % 4294967296);
  };
  const frame = (now) => { read(now); video.requestVideoFrameCallback(frame); };
  video.requestVideoFrameCallback(frame);
  const from = video.currentTime;
  const quality = video.getVideoPlaybackQuality();
  const frames = quality.totalVideoFrames;
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  let stuck = 0;
  let dry = 0; // of them, those in which there was nothing to show: the browser itself was not held up
  let dryFor = 0;
  let ticked = began;
  let longest = 0; // milliseconds for which the picture stood still
  let movedAt = began;
  let last = video.currentTime;
  let lastMoved = began;
  const freezes = []; // [seconds since the start, milliseconds] of each that a person may see
  const moves = []; // seconds at which the player changed the edge
  while (performance.now() - began < duration * 1000 && !window.watchedEnough) {
    await new Promise((done) => { setTimeout(done, 50); });
    const still = performance.now() - movedAt;
    const { buffered } = video;
    const ahead = buffered.length ? buffered.end(buffered.length - 1) - video.currentTime : 0;
    const tick = Math.min(performance.now() - ticked, 100); // more is this page's own delay
    ticked = performance.now();
    dryFor = video.currentTime === last && ahead < 0.045 ? dryFor + tick : 0;
    dry = Math.max(dry, dryFor);
    longest = Math.max(longest, still);
    if (video.currentTime !== last) {
      if (still > 150) freezes.push([seconds() - still / 1000, still]);
      movedAt = performance.now();
    }
    if ((window.headwater?.stats().moves ?? 0) > moves.length) moves.push(seconds());
    if (video.currentTime !== last) { last = video.currentTime; lastMoved = performance.now(); }
    else if (performance.now() - lastMoved > 400) { stuck += 1; lastMoved = performance.now(); }
  }
  const end = video.getVideoPlaybackQuality();
  return {
    latencies, waits, waited, dry, stuck, longest, freezes, moves,
    wall: (performance.now() - began) / 1000,
    advanced: video.currentTime - from,
    frames: end.totalVideoFrames - frames,
    dropped: end.droppedVideoFrames - quality.droppedVideoFrames,
    protocol: window.headwater ? window.headwater.protocol : '',
    edge: window.headwater?.edge ?? '',
    stats: window.headwater?.stats() ?? {},
    source: video.currentSrc,
  };
}, Number(seconds));
clearInterval(look);
if (screenshot) await page.screenshot({ path: screenshot });
const sorted = seen.latencies.toSorted((a, b) => a - b);
const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? null;
delete seen.latencies;
console.log(JSON.stringify({
  ...seen, started, samples: sorted.length, p50: at(0.5), p95: at(0.95), max: at(1),
  url: page.url(), consoleErrors, badResponses,
}));
await browser.close();
