// The clock bar of the test picture: 40 cells across the top 16 rows. Eight are 10101010, the other
// 32 the low bits of the wall clock in milliseconds, most significant first.

const CELLS = 40;
const SYNC = 8;
const ROWS = 16;
const WRAP = 2 ** 32;

export class ClockBar {
  constructor(video) {
    this.video = video;
    const canvas = document.createElement('canvas');
    canvas.width = CELLS;
    canvas.height = 1;
    this.context = canvas.getContext('2d', { willReadFrequently: true });
  }

  // Return {clock, latency} in milliseconds for the picture that is shown, null if it has no bar.
  read(now = Date.now()) {
    const { video, context } = this;
    if (!video.videoWidth) return null;
    context.drawImage(video, 0, ROWS / 2, video.videoWidth, 1, 0, 0, CELLS, 1);
    const pixels = context.getImageData(0, 0, CELLS, 1).data;
    let clock = 0;
    for (let cell = 0; cell < CELLS; cell += 1) {
      const bit = pixels[cell * 4] > 125 ? 1 : 0;
      if (cell >= SYNC) clock = clock * 2 + bit;
      else if (bit !== (cell + 1) % 2) return null;
    }
    return { clock, latency: (((now % WRAP) - clock) + WRAP) % WRAP };
  }
}
