// tokens.js: gpt-tokenizer's o200k_base, and where in a text its tokens begin.
'use strict';

const path = require('path');

const packages = path.resolve(__dirname, '../../build/node/texts');
const { encode } = require(`${packages}/gpt-tokenizer/cjs/encoding/o200k_base`);
const { default: ranks } = require(`${packages}/gpt-tokenizer/cjs/bpeRanks/o200k_base`);

const ordinary = { disallowedSpecial: new Set() };

function count(text) {
  return encode(text, ordinary).length;
}

// How many tokens begin within each character (code point) of the text.
function begun(text) {
  const bytes = Buffer.alloc(Buffer.byteLength(text));
  let at = 0;
  for (const token of encode(text, ordinary)) {
    bytes[at] = 1;
    at += typeof ranks[token] === 'string' ? Buffer.byteLength(ranks[token]) : ranks[token].length;
  }
  at = 0;
  return Uint8Array.from(text, (character) => {
    const from = at;
    at += Buffer.byteLength(character);
    return bytes.subarray(from, at).reduce((sum, byte) => sum + byte, 0);
  });
}

module.exports = { packages, count, begun };
