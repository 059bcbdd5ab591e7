// Fragmented MP4 over WebSocket into Media Source Extensions.

import { RateControl } from './rate.js';

const PROBES = {
  H264: 'video/mp4; codecs="avc1.42E01E"',
  HEVC: 'video/mp4; codecs="hvc1.1.6.L93.B0"',
  AV1: 'video/mp4; codecs="av01.0.04M.08"',
  VP9: 'video/mp4; codecs="vp09.00.10.08"',
  AAC: 'audio/mp4; codecs="mp4a.40.2"',
  OPUS: 'audio/mp4; codecs="opus"',
};
const KEEP = 20; // seconds kept behind the playhead
const MOST_QUEUED = 64 * 1024 * 1024; // bytes that may wait for a tab in the background
const JUMP_AFTER = 2.5; // seconds behind live at which it jumps instead of hurrying
const TICK = 50; // milliseconds

const Media = window.ManagedMediaSource ?? window.MediaSource;

export class WebSocketSource {
  static supported() {
    return Boolean(Media && window.WebSocket);
  }

  // `events` has playing(); failed(reason, again), which says whether trying again may help; and
  // waiting(hurry), which says whether something ought to be seen soon.
  constructor(video, address, events) {
    this.protocol = 'ws';
    this.video = video;
    this.events = events;
    this.control = new RateControl(JUMP_AFTER);
    this.queue = [];
    this.queued = 0;
    this.codecs = '';
    this.offset = null;
    this.started = false;
    this.closed = false;
    this.stalls = 0;
    this.media = new Media();
    this.media.addEventListener('sourceopen', () => this.#pump());
    if (window.ManagedMediaSource) video.disableRemotePlayback = true;
    this.url = URL.createObjectURL(this.media);
    video.src = this.url;
    this.onWaiting = () => this.#waiting();
    video.addEventListener('waiting', this.onWaiting);
    this.socket = new WebSocket(address);
    this.socket.binaryType = 'arraybuffer';
    this.socket.addEventListener('open', () => this.#greet());
    this.socket.addEventListener('message', (event) => this.#heard(event.data));
    this.socket.addEventListener('close', (event) => this.#lost(event));
    this.timer = setInterval(() => this.#tick(), TICK);
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    clearInterval(this.timer);
    this.video.removeEventListener('waiting', this.onWaiting);
    this.video.playbackRate = 1;
    this.socket.close();
    this.queue = [];
    URL.revokeObjectURL(this.url);
  }

  // Go to where the stream is now.
  live() {
    const end = this.#end();
    if (end !== null) this.video.currentTime = Math.max(this.#start(), end - this.control.target);
  }

  // Seconds between the capture of what is shown and now, null while unknown.
  latency() {
    if (this.offset === null || !this.started) return null;
    return (Date.now() - this.offset) / 1000 - this.video.currentTime;
  }

  stats() {
    return { buffer: this.#buffered(), target: this.control.target, stalls: this.stalls };
  }

  #greet() {
    this.events.waiting(false); // the server answers when the stream is live, or when it gives up
    const can = Object.keys(PROBES).filter((name) => Media.isTypeSupported(PROBES[name]));
    this.#say({ type: 'request_codec_data', supported_codecs: can });
    this.#say({ type: 'play' });
  }

  #say(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  #heard(data) {
    if (this.closed) return;
    if (typeof data === 'string') {
      this.#told(JSON.parse(data));
      return;
    }
    this.queue.push(data);
    this.queued += data.byteLength;
    if (this.queued > MOST_QUEUED) this.#fail('too far behind', true);
    this.#pump();
  }

  #told(message) {
    if (message.type === 'codec_data') {
      if (!this.started) this.events.waiting(true);
      const codecs = message.codecs.join(',');
      if (codecs !== this.codecs) this.queue.push(codecs);
      this.codecs = codecs;
    } else if (message.type === 'on_time') {
      this.offset = message.data.unixoffset;
    } else if (message.type === 'error') {
      this.reason = message.message;
    }
  }

  #pump() {
    const { queue } = this;
    if (this.closed || this.media.readyState !== 'open' || this.buffer?.updating) return;
    try {
      while (typeof queue[0] === 'string') this.#use(queue.shift());
      const run = queue.findIndex((item) => typeof item === 'string');
      const parts = queue.splice(0, run < 0 ? queue.length : run);
      if (parts.length && this.buffer) {
        this.queued -= parts.reduce((sum, part) => sum + part.byteLength, 0);
        this.buffer.appendBuffer(parts.length === 1 ? parts[0] : join(parts));
      }
    } catch (error) {
      if (error.name === 'QuotaExceededError') this.#trim(1);
      else this.#fail(`cannot play this: ${error.message}`, false);
    }
  }

  #use(codecs) {
    const kind = /avc|hvc|hev|av01|vp09/.test(codecs) ? 'video' : 'audio';
    const type = `${kind}/mp4; codecs="${codecs}"`;
    if (!Media.isTypeSupported(type)) throw new Error(codecs);
    if (this.buffer) {
      this.buffer.changeType(type);
      return;
    }
    this.buffer = this.media.addSourceBuffer(type);
    this.media.duration = Infinity;
    this.buffer.addEventListener('updateend', () => this.#appended());
  }

  #appended() {
    if (this.closed) return;
    if (!this.started && this.#end() !== null) {
      this.started = true;
      this.live();
      this.events.playing();
    }
    if (this.video.currentTime - this.#start() > 2 * KEEP) this.#trim(KEEP);
    this.#pump();
  }

  #trim(keep) {
    const until = this.video.currentTime - keep;
    if (this.buffer && !this.buffer.updating && until > this.#start()) {
      this.buffer.remove(0, until);
    }
  }

  #tick() {
    if (!this.started || this.video.paused || this.video.seeking) return;
    const { video } = this;
    const advice = this.control.advise(this.#buffered(), performance.now() / 1000);
    if (advice.jump !== null) this.live();
    if (Math.abs(video.playbackRate - advice.rate) > 0.004) video.playbackRate = advice.rate;
    const ranges = video.buffered;
    for (let range = 0; range < ranges.length; range += 1) {
      // A gap, where this viewer was too slow and frames were left out.
      if (ranges.start(range) > video.currentTime && video.readyState < 3) {
        video.currentTime = ranges.start(range);
        break;
      }
    }
  }

  #waiting() {
    if (!this.started || this.video.seeking) return;
    this.stalls += 1;
    this.control.stalled(performance.now() / 1000);
  }

  #buffered() {
    const end = this.#end();
    return end === null ? 0 : Math.max(0, end - this.video.currentTime);
  }

  #start() {
    const { buffered } = this.video;
    return buffered.length ? buffered.start(0) : 0;
  }

  #end() {
    const { buffered } = this.video;
    return buffered.length ? buffered.end(buffered.length - 1) : null;
  }

  #lost(event) {
    const gone = event.code === 4404 ? 'The stream is not live yet' : this.reason;
    this.#fail(gone ?? 'The connection was lost', event.code !== 4415);
  }

  #fail(reason, again) {
    if (this.closed) return;
    this.close();
    this.events.failed(reason, again);
  }
}

function join(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let position = 0;
  for (const part of parts) {
    whole.set(new Uint8Array(part), position);
    position += part.byteLength;
  }
  return whole;
}
