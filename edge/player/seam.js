// The seam between two connections that carry the same frames: the old one is followed up to a
// keyframe, the new one from there on. No frame comes twice, none is missing.
// Items are {codecs}, {key} (stream time of the keyframe that follows) or {data}, in their order.

export class Seam {
  // `lastKey`: the newest keyframe that the old connection brought, null if it is gone.
  constructor(lastKey) {
    this.lastKey = lastKey;
    this.header = []; // codecs and init segment of the new connection
    this.pending = []; // what it brought from a keyframe on
    this.from = null; // that keyframe
    this.settled = false; // whether it is the one at which to change
    this.held = null; // what the old one brought from a keyframe on that the new one owes yet
  }

  // Take in an item of the new connection; return whether to change now.
  add(item) {
    if (this.settled) {
      this.pending.push(item);
    } else if ('codecs' in item) {
      this.header = [item];
      this.pending = [];
      this.from = null;
    } else if ('key' in item) {
      this.pending = [item];
      this.from = item.key;
      this.settled = this.held ? item.key >= this.lastKey : this.#ahead(item);
    } else if (this.header.length === 1) {
      this.header.push(item);
    } else if (this.from !== null || this.soundAlone) {
      this.pending.push(item);
    }
    return this.ready && (this.soundAlone || this.lastKey === null
      || (this.settled && this.held !== null));
  }

  // Take in an item of the old connection; return 'play', 'hold' or 'change'. Once the new
  // connection is there and its next keyframe is due, what the old one brings is held: it comes
  // from the new one in a moment.
  follow(item) {
    if (this.held) {
      this.held.push(item);
      return 'hold';
    }
    if (!('key' in item)) return 'play';
    this.lastKey = item.key;
    if (this.settled) return item.key >= this.from ? 'change' : 'play';
    if (!this.ready || item.key <= this.from) return 'play';
    this.held = [item];
    return 'hold';
  }

  // The new connection is late: return what was held, to be played after all.
  release() {
    const items = this.held ?? [];
    this.held = null;
    return items;
  }

  // The old connection is gone.
  orphaned() {
    this.lastKey = null;
  }

  // Whether there is something to play at once, should the old connection be gone.
  get ready() {
    return this.pending.some((item) => 'data' in item);
  }

  // Whether no keyframe will ever come: every frame of sound can be the first.
  get soundAlone() {
    return this.header.length > 0 && !hasVideo(this.header[0].codecs);
  }

  // Return what is to be played of the new connection until now.
  take() {
    return [...this.header, ...this.pending];
  }

  #ahead(item) {
    return this.lastKey !== null && item.key > this.lastKey;
  }
}

export function hasVideo(codecs) {
  return /avc|hvc|hev|av01|vp09/.test(codecs);
}
