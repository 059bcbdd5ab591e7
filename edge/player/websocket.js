// Fragmented MP4 over WebSocket into Media Source Extensions.

import { Line } from './line.js';
import { RateControl } from './rate.js';
import { Seam, hasVideo } from './seam.js';

const KEEP = 20; // seconds kept behind the playhead
const MOST_QUEUED = 64 * 1024 * 1024; // bytes that may wait for a tab in the background
const JUMP_AFTER = 2.5; // seconds behind live at which it jumps instead of hurrying
const TICK = 50; // milliseconds
const CHANGE = 12000; // milliseconds after which a change of the edge waits for no keyframe
const LATE = 0.15; // seconds more that are to be in the buffer for a change of the edge
const SPARE = 0.05; // seconds that are left in it when a frame is held for the other edge to bring it
const HURRY = 3000; // milliseconds that another edge has to show something when this one is gone
const TRIES = 6; // edges that are tried before the player begins anew
const PAUSE = 250; // milliseconds between them
const SAME_TIMELINE = 10000; // milliseconds between what is shown and what a new edge brings

const Media = window.ManagedMediaSource ?? window.MediaSource;

export class WebSocketSource {
  static supported() {
    return Boolean(Media && window.WebSocket);
  }

  // `events` has playing(); failed(reason, again, here), which says whether trying again may help,
  // and whether at the same edge; waiting(hurry), which says whether something ought to be seen soon; elsewhere(), which promises
  // the address of another edge; and moved(address), which says that the player went on there.
  constructor(video, address, events) {
    this.protocol = 'ws';
    this.video = video;
    this.events = events;
    this.control = new RateControl(JUMP_AFTER);
    this.queue = [];
    this.queued = 0;
    this.codecs = '';
    this.offset = null;
    this.lastKey = null;
    this.started = false;
    this.closed = false;
    this.stalls = 0;
    this.moves = 0;
    this.tries = 0;
    this.next = null; // the connection to another edge, and the seam to it
    this.media = new Media();
    this.media.addEventListener('sourceopen', () => this.#pump());
    if (window.ManagedMediaSource) video.disableRemotePlayback = true;
    this.url = URL.createObjectURL(this.media);
    video.src = this.url;
    this.onWaiting = () => this.#waiting();
    video.addEventListener('waiting', this.onWaiting);
    this.line = new Line(Media, address, {
      open: () => events.waiting(false), // it answers when the stream is live, or gives up
      told: (message) => this.#told(message),
      item: (item) => this.#came(item),
      lost: (event) => this.#lost(event),
    });
    this.timer = setInterval(() => this.#tick(), TICK);
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    clearInterval(this.timer);
    this.video.removeEventListener('waiting', this.onWaiting);
    this.video.playbackRate = 1;
    this.line?.close();
    this.#giveUp();
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
    return { buffer: this.#buffered(), target: this.control.target, stalls: this.stalls, moves: this.moves };
  }

  #told(message) {
    if (message.type === 'error') this.reason = message.message;
    else if (message.type === 'on_stop') this.over = true;
    else if (message.type === 'move' && !this.next && this.line) {
      // An address without a host is that of the edge itself, where another process takes over.
      this.#change(new URL(message.data.url, this.line.socket.url).href);
    }
  }

  // An item of the edge that is watched.
  #came(item) {
    if (this.closed) return;
    const what = this.next?.seam.follow(item) ?? 'play';
    if (what === 'play') this.#take(item);
    else if (what === 'change') this.#switch();
    else this.next.late ??= setTimeout(() => this.#release(), this.#patience() * 1000);
  }

  #take(item) {
    if ('codecs' in item) {
      if (!this.started) this.events.waiting(true);
      if (item.codecs !== this.codecs) this.queue.push(item.codecs);
      this.codecs = item.codecs;
    } else if ('key' in item) {
      this.lastKey = item.key;
      this.offset = item.offset;
    } else {
      this.queue.push(item.data);
      this.queued += item.data.byteLength;
      if (this.queued > MOST_QUEUED) this.#fail('too far behind', true);
      this.#pump();
    }
  }

  // Open a connection to another edge, beside the one that there is.
  #change(address) {
    const seam = new Seam(this.line ? this.lastKey : null);
    const line = new Line(Media, address, {
      open: () => {},
      told: () => {},
      item: (item) => {
        if (seam.add(item)) this.#switch();
      },
      lost: () => this.#retry(),
    });
    // A stream whose keyframes are far apart, or an edge that is stuck.
    const wait = this.line ? CHANGE : HURRY;
    const timer = setTimeout(() => (seam.ready ? this.#switch(true) : this.#retry()), wait);
    this.next = { line, seam, timer, address };
    if (this.line) this.#reserve();
  }

  // Have more in the buffer: the longer it lasts, the later the other edge may be.
  #reserve() {
    this.control.reserve(this.#buffered() + LATE, performance.now() / 1000);
  }

  // From here on the other edge is the one that is watched.
  #switch(forced = false) {
    const { line, seam, timer, late, address } = this.next;
    // What overlaps with the buffer is taken over by it without a seam.
    const gap = this.line === null || (forced && seam.from / 1000 > (this.#end() ?? 0));
    clearTimeout(timer);
    clearTimeout(late);
    this.line?.close();
    this.next = null;
    this.line = line;
    this.tries = 0;
    this.moves += 1;
    line.handler.told = (message) => this.#told(message);
    line.handler.item = (item) => this.#came(item);
    line.handler.lost = (event) => this.#lost(event);
    const shown = this.video.currentTime * 1000;
    if (this.started && seam.from !== null && Math.abs(seam.from - shown) > SAME_TIMELINE) {
      this.#fail('The stream began anew', true);
      return;
    }
    this.jump = gap;
    for (const item of seam.take()) this.#take(item);
    this.events.moved(address);
  }

  // Seconds for which nothing need be appended.
  #patience() {
    return Math.max(0, this.#buffered() - SPARE);
  }

  // The other edge is later than the buffer lasts: play on here, a little slower so that it will
  // last longer, and change at the next keyframe.
  #release() {
    if (!this.next) return;
    if (this.next.late) this.#reserve();
    clearTimeout(this.next.late);
    this.next.late = undefined;
    for (const item of this.next.seam.release()) this.#take(item);
  }

  #giveUp() {
    if (!this.next) return;
    this.#release();
    clearTimeout(this.next.timer);
    this.next.line.close();
    this.next = null;
  }

  // The other edge is none: try a third one.
  async #retry() {
    this.#giveUp();
    this.tries += 1;
    if (this.tries > TRIES && this.line === null) {
      this.#fail('The connection was lost', true);
      return;
    }
    if (this.tries > TRIES) return; // all is well here until the edge ends
    if (this.tries > 1) await new Promise((done) => { setTimeout(done, PAUSE); });
    const address = await this.events.elsewhere();
    if (!this.closed && !this.next) this.#change(address);
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
    const kind = hasVideo(codecs) ? 'video' : 'audio';
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
    if (this.jump) {
      this.jump = false;
      this.live(); // what is shown lies before what came anew
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
    if (this.closed) return;
    if (this.started && !this.over && event.code < 4000) {
      this.line = null;
      if (this.next?.seam.ready) this.#switch();
      else if (this.next) this.next.seam.orphaned();
      else this.#retry();
      return;
    }
    const gone = event.code === 4404 ? 'The stream is not live yet' : this.reason;
    this.#fail(gone ?? 'The connection was lost', event.code !== 4415, event.code === 4404);
  }

  #fail(reason, again, here = false) {
    if (this.closed) return;
    this.close();
    this.events.failed(reason, again, here);
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
