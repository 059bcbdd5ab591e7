// Low-latency HLS: by hls.js where it is installed, else by the browser itself.

const TOO_LATE = 6; // seconds behind live at which it jumps
const CONFIG = {
  lowLatencyMode: true,
  maxLiveSyncPlaybackRate: 1.5,
  backBufferLength: 20,
  enableWorker: false,
  manifestLoadPolicy: policy(6),
  playlistLoadPolicy: policy(2), // then it goes on at another edge, without a stall
  fragLoadPolicy: policy(3),
};

function policy(retries) {
  const retry = { maxNumRetry: retries, retryDelayMs: 250, maxRetryDelayMs: 4000 };
  return {
    default: {
      maxTimeToFirstByteMs: 12000,
      maxLoadTimeMs: 20000,
      timeoutRetry: retry,
      errorRetry: retry,
    },
  };
}

let library = null;

function load() {
  library ??= new Promise((resolve) => {
    const script = document.createElement('script');
    script.src = '/hls.js';
    script.addEventListener('load', () => resolve(window.Hls ?? null));
    script.addEventListener('error', () => resolve(null));
    document.head.append(script);
  });
  return library;
}

export class HlsSource {
  static async supported() {
    const Hls = await load();
    return Boolean(Hls?.isSupported());
  }

  constructor(video, address, events) {
    this.protocol = 'hls';
    this.video = video;
    this.events = events;
    this.stalls = 0;
    const { Hls } = window;
    this.hls = new Hls(CONFIG);
    this.hls.on(Hls.Events.ERROR, (_, data) => this.#error(Hls, data));
    this.hls.on(Hls.Events.FRAG_BUFFERED, () => this.#playing());
    this.hls.loadSource(address);
    this.hls.attachMedia(video);
    this.timer = setInterval(() => this.#tick(), 1000);
  }

  close() {
    clearInterval(this.timer);
    this.hls?.destroy();
    this.hls = null;
  }

  live() {
    const position = this.hls?.liveSyncPosition;
    if (position) this.video.currentTime = position;
  }

  latency() {
    const shown = this.hls?.playingDate;
    return shown ? (Date.now() - shown.getTime()) / 1000 : null;
  }

  stats() {
    const { buffered, currentTime } = this.video;
    const end = buffered.length ? buffered.end(buffered.length - 1) : currentTime;
    return { buffer: end - currentTime, target: this.hls?.targetLatency ?? 0, stalls: this.stalls };
  }

  #playing() {
    if (!this.begun) this.events.playing();
    this.begun = true;
  }

  #tick() {
    if (!this.video.paused && this.hls?.latency > TOO_LATE) this.live();
  }

  #error(Hls, data) {
    if (data.details === Hls.ErrorDetails.BUFFER_STALLED_ERROR) this.stalls += 1;
    if (!data.fatal) return;
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR && !this.recovered) {
      this.recovered = true;
      this.hls.recoverMediaError();
      return;
    }
    const missing = data.response?.code === 404;
    this.close();
    this.events.failed(missing ? 'The stream is not live yet' : 'The connection was lost', true, missing);
  }
}

export class NativeSource {
  static supported(video) {
    return Boolean(video.canPlayType('application/vnd.apple.mpegurl'));
  }

  constructor(video, address, events) {
    this.protocol = 'native';
    this.video = video;
    this.onError = () => events.failed('The connection was lost', true);
    this.onPlaying = () => events.playing();
    video.addEventListener('error', this.onError);
    video.addEventListener('loadeddata', this.onPlaying, { once: true });
    video.src = address;
  }

  close() {
    this.video.removeEventListener('error', this.onError);
    this.video.removeEventListener('loadeddata', this.onPlaying);
    this.video.removeAttribute('src');
    this.video.load();
  }

  live() {
    const { seekable } = this.video;
    if (seekable.length) this.video.currentTime = seekable.end(seekable.length - 1);
  }

  latency() {
    const start = this.video.getStartDate?.().getTime();
    return Number.isFinite(start) ? (Date.now() - start) / 1000 - this.video.currentTime : null;
  }

  stats() {
    return { buffer: 0, target: 0, stalls: 0 };
  }
}
