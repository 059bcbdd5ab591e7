// Read fragmented MP4 with mp4box.js and print what it sees, as one line of JSON.
// usage: node lint_mp4.mjs FILE...      (a file an init segment with parts behind it)
import { readFileSync } from 'node:fs';
import * as MP4Box from 'mp4box';

const lib = MP4Box.createFile ? MP4Box : MP4Box.default;
const errors = [];
lib.Log.setLogLevel(lib.Log.LOG_LEVEL_ERROR ?? lib.Log.error);
const complain = console.error;
console.error = (...words) => { errors.push(words.join(' ')); };
const files = process.argv.slice(2).map((path) => {
  const bytes = readFileSync(path);
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  buffer.fileStart = 0;
  const file = lib.createFile();
  let info = null;
  file.onError = (error) => errors.push(`${path}: ${error}`);
  file.onReady = (ready) => { info = ready; };
  file.appendBuffer(buffer);
  file.flush();
  const tracks = (info?.tracks ?? []).map((track) => ({
    id: track.id, codec: track.codec, timescale: track.timescale,
    samples: file.getTrackSamplesInfo(track.id).length,
  }));
  const unknown = file.boxes.filter((box) => box.type === undefined).length;
  return { path, tracks, unknown, boxes: file.boxes.length };
});
console.error = complain;
console.log(JSON.stringify({ files, errors }));
