// layout.js: what the weights of src/estimate.c hang on, read by fit alone: the C code has it in the tables of fit.
//
// Code points come in blocks of 128. A block belongs to a script, and each of its characters has a weight, or in the
// large ones, and those of few readers, each 128 ("coarse"): one where it begins a word, or a run of its block, and one
// within. Characters of ASCII have a weight for each of 16 contexts: what kind of character comes before them.
'use strict';

const { count } = require('./tokens');

const SCRIPTS = ['latin', 'cyrillic', 'greek', 'arabic', 'hebrew', 'devanagari', 'indic', 'thai', 'southeast', 'han',
  'kana', 'hangul', 'digit', 'punctuation', 'symbol', 'other'];

const BLOCKS = [
  ['latin', 0x80, 0xff], ['latin', 0x100, 0x17f], ['latin', 0x180, 0x27f], ['latin', 0x280, 0x37f, 'coarse'],
  ['latin', 0x1e00, 0x1e7f], ['latin', 0x1e80, 0x1eff],
  ['greek', 0x380, 0x3ff], ['greek', 0x1f00, 0x1fff, 'coarse'],
  ['cyrillic', 0x400, 0x47f], ['cyrillic', 0x480, 0x4ff], ['cyrillic', 0x500, 0x57f, 'coarse'],
  ['hebrew', 0x580, 0x5ff], ['arabic', 0x600, 0x67f], ['arabic', 0x680, 0x77f],
  ['devanagari', 0x900, 0x97f], ['indic', 0x980, 0x9ff], ['indic', 0xa00, 0xa7f], ['indic', 0xa80, 0xaff],
  ['indic', 0xb00, 0xb7f], ['indic', 0xb80, 0xbff], ['indic', 0xc00, 0xc7f], ['indic', 0xc80, 0xcff],
  ['indic', 0xd00, 0xd7f], ['indic', 0xd80, 0xdff],
  ['thai', 0xe00, 0xe7f], ['southeast', 0xe80, 0xeff], ['southeast', 0xf00, 0xfff, 'coarse'],
  ['southeast', 0x1000, 0x107f], ['southeast', 0x1780, 0x17ff],
  ['other', 0x1080, 0x10ff], ['other', 0x1200, 0x13ff, 'coarse'],
  ['symbol', 0x2000, 0x207f], ['symbol', 0x2080, 0x2fff, 'coarse'],
  ['kana', 0x3000, 0x307f], ['kana', 0x3080, 0x30ff], ['kana', 0x3100, 0x33ff, 'coarse'],
  ['han', 0x3400, 0x4dff, 'coarse'], ['han', 0x4e00, 0x9fff, 'coarse'],
  ['hangul', 0x1100, 0x11ff, 'coarse'], ['hangul', 0xac00, 0xd7ff, 'coarse'],
  ['symbol', 0xff00, 0xff7f], ['symbol', 0x1f000, 0x1ffff, 'coarse'],
];

// Letters before a character are told apart by how often tokens end behind them; 0 is what nothing else is.
const CONTEXTS = { 1: 'aou', 2: 'eiy', 3: 'nmrl', 4: 'sc', 5: 'td', 6: 'bpfgvhjkqwxz', 7: 'ABCDEFGHIJKLMNOPQRSTUVWXYZ',
  8: '0123456789', 9: ' ', 10: '\t\n\r', 11: '([{<\'"`', 12: '_-/.\\$@#', 13: ')]}>,;:!?=*+&|%^~' };
const SPACE_CONTEXT = 9;
const LATIN_CONTEXT = 14;
const FOREIGN_CONTEXT = 15;

// The blocks begin with "anything else"; behind them that of ASCII has a number, but its weights have their own table.
const blocks = [{ script: SCRIPTS.indexOf('other'), shift: 7 },
  ...BLOCKS.map(([script, , , coarse]) => ({ script: SCRIPTS.indexOf(script), shift: coarse ? 7 : 0 }))];
const blockOf = new Uint8Array(0x20000 >> 7);
BLOCKS.forEach(([, from, to], i) => blockOf.fill(i + 1, from >> 7, (to >> 7) + 1));
const contextOf = new Uint8Array(128);
for (const [context, characters] of Object.entries(CONTEXTS)) {
  for (const character of characters) contextOf[character.charCodeAt(0)] = Number(context);
}

// Chinese characters of the main block are told apart by whether the tokenizer has a token for them, and by 512: the
// simplified and traditional ones of a text differ in that more than in anything else.
const HAN = 1 + BLOCKS.findIndex(([, from]) => from === 0x4e00);
const HAN_FIRST = 0x4e00;
const hanCommon = new Uint8Array(0x5200);
for (let i = 0; i < hanCommon.length; i++) hanCommon[i] = Number(count(String.fromCodePoint(HAN_FIRST + i)) === 1);

// Which of a block's weights a character has.
function placeOf(block, code) {
  if (block === HAN) return ((code - HAN_FIRST) >> 9) | (hanCommon[code - HAN_FIRST] << 6);
  return (code >> blocks[block].shift) & 127;
}

// Weights are one array: ASCII by context, then the blocks at beginnings, the blocks within words, and then the space
// behind a character of each block.
const FIRST = 16 * 128;
const WITHIN = FIRST + blocks.length * 128;
const SPACES = WITHIN + blocks.length * 128;
const SIZE = SPACES + blocks.length;

// Calls use(weight) for every character of codes[from..to).
function walk(codes, from, to, use) {
  let context = SPACE_CONTEXT;
  let block = 0;
  for (let i = from; i < to; i++) {
    const code = codes[i];
    if (code >= 128) {
      const before = context >= LATIN_CONTEXT ? block : -1;
      block = code < 0x20000 ? blockOf[code >> 7] : 0;
      use((block === before ? WITHIN : FIRST) + block * 128 + placeOf(block, code), i);
      context = blocks[block].script === 0 ? LATIN_CONTEXT : FOREIGN_CONTEXT;
    } else if (code === 32 && context >= LATIN_CONTEXT) {
      use(SPACES + block, i);
      context = SPACE_CONTEXT;
    } else {
      use(context * 128 + code, i);
      context = contextOf[code];
    }
  }
}

module.exports = { SCRIPTS, blocks, blockOf, contextOf, HAN, hanCommon, FIRST, WITHIN, SPACES, SIZE, walk };
