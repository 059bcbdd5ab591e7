// Read playlists with foreign parsers and print what they find wrong, as one line of JSON.
// usage: node lint_hls.mjs FILE...      (a file a playlist)
import { readFileSync } from 'node:fs';
import * as HLS from 'hls-parser';
import { Parser } from 'm3u8-parser';

const parse = HLS.parse ?? HLS.default.parse;
(HLS.setOptions ?? HLS.default.setOptions)({ strictMode: true });
const findings = [];
for (const file of process.argv.slice(2)) {
  const text = readFileSync(file, 'utf8');
  try {
    parse(text);
  } catch (error) {
    findings.push(`${file}: hls-parser: ${error.message}`);
  }
  const parser = new Parser();
  parser.on('warn', (warning) => findings.push(`${file}: m3u8-parser: ${warning.message}`));
  parser.push(text);
  parser.end();
}
console.log(JSON.stringify({ files: process.argv.length - 2, findings }));
