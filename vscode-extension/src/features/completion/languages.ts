/** What the completion needs to know of languages: how blocks begin and end, what a comment is. By family, no parser. */

/** How a language marks its blocks. */
export type Family = "indent" | "brace" | "keyword" | "markup" | "prose";

const FAMILIES: Readonly<Record<string, Family>> = {
  python: "indent",
  yaml: "indent",
  dockercompose: "indent",
  coffeescript: "indent",
  nim: "indent",
  sass: "indent",
  jade: "indent",
  pug: "indent",
  haml: "indent",
  fsharp: "indent",
  haskell: "indent",
  makefile: "indent",
  ruby: "keyword",
  lua: "keyword",
  shellscript: "keyword",
  elixir: "keyword",
  julia: "keyword",
  sql: "keyword",
  vb: "keyword",
  pascal: "keyword",
  html: "markup",
  xml: "markup",
  xsl: "markup",
  svg: "markup",
  vue: "markup",
  svelte: "markup",
  handlebars: "markup",
  markdown: "prose",
  plaintext: "prose",
  latex: "prose",
  restructuredtext: "prose",
  asciidoc: "prose",
  "git-commit": "prose",
};

/** Languages that are not known are taken for one with braces, as most are. */
export function familyOf(language: string): Family {
  return FAMILIES[language] ?? "brace";
}

const HASH = new Set(["python", "yaml", "dockercompose", "ruby", "shellscript", "elixir", "julia", "makefile", "perl"]);
for (const more of ["r", "toml", "ini", "properties", "dockerfile", "coffeescript", "nim", "powershell"])
  HASH.add(more);
const DASHES = new Set(["sql", "lua", "haskell"]);

/** Where elements with tags stand in the text. */
export function hasElements(language: string): boolean {
  return familyOf(language) === "markup" || language === "typescriptreact" || language === "javascriptreact";
}

/** What begins a comment up to the end of the line; undefined where there is no such thing. */
export function commentMark(language: string): string | undefined {
  if (HASH.has(language)) return "#";
  if (DASHES.has(language)) return "--";
  const family = familyOf(language);
  return family === "prose" || family === "markup" || language === "css" ? undefined : "//";
}

/** A line that is nothing but a comment, or the middle of a `/* … *\/` one. */
export function isComment(line: string, language: string): boolean {
  const text = line.trim();
  const mark = commentMark(language);
  if (mark !== undefined && text.startsWith(mark)) return true;
  return familyOf(language) === "brace" && (text.startsWith("/*") || /^\*(\s|$|\/)/.test(text));
}

/** Elements that are never closed. */
const VOID = /^<(area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr|!)/i;
const KEYWORD_END = /(^|\s)(then|do|else|begin|loop|repeat)\s*(\|[^|]*\|)?$/;
const KEYWORD_LINE = /^\s*(def|class|module|if|unless|while|until|for|case|function|local function)\b/;

/** Does the text up to the cursor end with the beginning of a block? `line` is the cursor's line, or one above it. */
export function opensBlock(line: string, language: string): boolean {
  const text = withoutComment(line, language).trimEnd();
  if (text === "") return false;
  switch (familyOf(language)) {
    case "indent":
      return /[:{([]$/.test(text) || /^\s*-$/.test(text);
    case "keyword":
      return KEYWORD_END.test(text) || /[{([]$/.test(text) || (language !== "shellscript" && KEYWORD_LINE.test(text));
    case "markup":
      return opensElement(text) || /[{([]$/.test(text);
    case "prose":
      return false;
    case "brace":
      if (hasElements(language) && opensElement(text)) return true;
      return /(=>|[{([])$/.test(text) || /^\s*(case\b.*|default\s*):$/.test(text);
  }
}

function opensElement(text: string): boolean {
  const tag = /<[A-Za-z][^<>]*>$/.exec(text)?.[0];
  return tag !== undefined && !tag.endsWith("/>") && !VOID.test(tag);
}

/** A line that closes a block: it stands one step further out than what it ends. */
export function closesBlock(line: string, language: string): boolean {
  const text = line.trim();
  if (/^[}\])]/.test(text)) return true;
  const family = familyOf(language);
  if (family === "keyword") return /^(end|fi|done|esac)\b/i.test(text);
  return hasElements(language) && text.startsWith("</");
}

/** A line that goes on with the block above it: `else`, `catch`, … */
export function continuesBlock(line: string): boolean {
  return /^[}\])\s]*(else|elif|elsif|elseif|except|finally|catch|rescue|ensure|while\s*\()/.test(line.trim());
}

/** The line up to a comment at its end, as far as that can be told without a parser. */
export function withoutComment(line: string, language: string): string {
  const mark = commentMark(language);
  if (mark === undefined) return line;
  const at = line.lastIndexOf(` ${mark}`);
  if (at < 0) return line.trimStart().startsWith(mark) ? "" : line;
  const quotes = line.slice(0, at).match(/["'`]/g)?.length ?? 0;
  return quotes % 2 === 0 ? line.slice(0, at) : line;
}
