// One WebSocket to an edge: says what this browser can play, and hands on what comes.

const PROBES = {
  H264: 'video/mp4; codecs="avc1.42E01E"',
  HEVC: 'video/mp4; codecs="hvc1.1.6.L93.B0"',
  AV1: 'video/mp4; codecs="av01.0.04M.08"',
  VP9: 'video/mp4; codecs="vp09.00.10.08"',
  AAC: 'audio/mp4; codecs="mp4a.40.2"',
  OPUS: 'audio/mp4; codecs="opus"',
};

export class Line {
  // `handler` has open(); told(message) for words; item(item) for what is to be played: {codecs},
  // {key, offset} before a keyframe, or {data}; and lost(event), once.
  constructor(media, address, handler) {
    this.media = media;
    this.handler = handler;
    this.closed = false;
    this.socket = new WebSocket(address);
    this.socket.binaryType = 'arraybuffer';
    this.socket.addEventListener('open', () => this.#greet());
    this.socket.addEventListener('message', (event) => this.#heard(event.data));
    this.socket.addEventListener('close', (event) => {
      if (!this.closed) this.handler.lost(event);
      this.closed = true;
    });
  }

  close() {
    this.closed = true;
    this.socket.close();
  }

  #greet() {
    if (this.closed) return;
    this.handler.open();
    const can = Object.keys(PROBES).filter((name) => this.media.isTypeSupported(PROBES[name]));
    this.#say({ type: 'request_codec_data', supported_codecs: can });
    this.#say({ type: 'play' });
  }

  #say(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  #heard(data) {
    if (this.closed) return;
    if (typeof data !== 'string') {
      this.handler.item({ data });
      return;
    }
    const message = JSON.parse(data);
    if (message.type === 'codec_data') this.handler.item({ codecs: message.codecs.join(',') });
    else if (message.type === 'on_time') {
      this.handler.item({ key: message.data.current, offset: message.data.unixoffset });
    } else this.handler.told(message);
  }
}
