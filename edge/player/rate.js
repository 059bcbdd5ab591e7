// How fast to play so that little waits in the buffer, and none of it runs out.
// Pure: given what is buffered and the time, it says which rate to play at and when to jump.

const BASE_TARGET = 0.11; // seconds of media ahead of the playhead
const MOST_TARGET = 0.8;
const STALL_STEP = 0.06; // a stall raises the target, calm lowers it again
const CALM = 8; // seconds
const CALM_STEP = 0.03;
const HURRY = 0.03; // this far above the target it starts to hurry, and hurries until it is reached
const FASTEST = 1.3;
const SLOWEST = 0.95;

export class RateControl {
  constructor(jumpAfter) {
    this.jumpAfter = jumpAfter;
    this.target = BASE_TARGET;
    this.hurrying = false;
    this.easing = false;
    this.lowest = Infinity;
    this.windowEnds = 0;
    this.ahead = 0;
    this.calmSince = 0;
  }

  // The playhead ran dry at `now` (seconds).
  stalled(now) {
    this.target = Math.min(this.target + STALL_STEP, MOST_TARGET);
    this.calmSince = now;
  }

  // More is to be in the buffer from `now` on: `seconds`, if that is not too much.
  reserve(seconds, now) {
    this.target = Math.max(this.target, Math.min(seconds, MOST_TARGET));
    this.hurrying = false;
    this.easing = true;
    this.calmSince = now;
  }

  // Return {rate, jump}: `jump` is how far before the end to go on, or null.
  advise(buffered, now) {
    if (buffered > this.jumpAfter) {
      this.hurrying = this.easing = false;
      this.ahead = 0;
      this.windowEnds = 0;
      return { rate: 1, jump: this.target };
    }
    if (now - this.calmSince > CALM) {
      this.target = Math.max(BASE_TARGET, this.target - CALM_STEP);
      this.calmSince = now;
    }
    this.#measure(buffered, now);
    // The lowest level of the last moments counts: frames come in bursts, the level is a sawtooth.
    const excess = this.ahead - this.target;
    if (excess > HURRY) this.hurrying = true;
    if (excess <= 0) this.hurrying = false;
    if (buffered < this.target / 3) this.easing = true;
    if (buffered >= this.target) this.easing = false;
    if (this.hurrying) return { rate: Math.min(FASTEST, 1.02 + excess), jump: null };
    return { rate: this.easing ? SLOWEST : 1, jump: null };
  }

  #measure(buffered, now) {
    this.lowest = Math.min(this.lowest, buffered);
    if (now >= this.windowEnds || this.lowest < this.ahead) {
      this.ahead = this.lowest;
    }
    if (now >= this.windowEnds) {
      this.lowest = buffered;
      this.windowEnds = now + 0.25;
    }
  }
}

// Waiting times for connections that fail: doubling, with jitter, from the start after a success.
export class Backoff {
  constructor(first = 0.25, longest = 5) {
    this.first = first;
    this.longest = longest;
    this.next = first;
  }

  milliseconds() {
    const wait = this.next * (0.75 + Math.random() / 2);
    this.next = Math.min(this.next * 2, this.longest);
    return wait * 1000;
  }

  reset() {
    this.next = this.first;
  }
}
