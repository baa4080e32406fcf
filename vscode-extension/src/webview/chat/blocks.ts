/** Markdown's tokens as elements. No markup is ever parsed; links carry their target in `data-href`, never as `href`. */

import MarkdownIt, { type Env, type MarkdownIt as Parser, type Token } from "markdown-it";
import { h, iconButton } from "./h";
import { highlighted, isShell, languageName } from "./highlight";
import { fenceInfo, fileInCode, linkTarget } from "./links";
import { placeholder } from "./morph";

/** What the drawing of one answer keeps in mind. */
export interface Drawing {
  readonly environment: Env;
  /** Code blocks drawn before: the number of the next one. */
  blocks: number;
  /** The last code block is still being written: cheap to draw, no colours where it is long. */
  readonly open: boolean;
  /** The place of each item of the list in front that is on the screen already; the others are drawn. */
  readonly present?: ReadonlySet<number>;
}

const OPEN_COLOURED = 4_000;
const TAGS: ReadonlySet<string> = new Set(
  "p ul ol li blockquote hr table thead tbody tr th td strong em s br code".split(" "),
);

const inlines = createParser();
const blocks = createParser();
blocks.core.ruler.enableOnly(["normalize", "block"]);

/** The tokens of blocks. What is inside of a line is parsed only when it is drawn. */
export function parseBlocks(text: string, environment: Env): Token[] {
  return blocks.parse(text, environment);
}

/** Without HTML, without pictures from elsewhere; bare web addresses become links. */
function createParser(): Parser {
  const parser = new MarkdownIt({ html: false, linkify: true, breaks: false });
  parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
  parser.validateLink = (url) => linkTarget(url) !== undefined;
  return parser;
}

/** The elements of `tokens`, one for each block at the top. */
export function draw(tokens: readonly Token[], drawing: Drawing): DocumentFragment {
  const fragment = document.createDocumentFragment();
  const last = drawing.open ? lastCode(tokens) : -1;
  const stack: Node[] = [fragment];
  let item = -1;
  for (let index = 0; index < tokens.length; index++) {
    const token = tokens[index];
    const parent = stack.at(-1) ?? fragment;
    if (!token || token.hidden) continue;
    if (token.type === "list_item_open" && token.level === 1 && drawing.present?.has(++item)) {
      parent.appendChild(placeholder("li"));
      const end = itemEnd(tokens, index);
      drawing.blocks += tokens.slice(index, end).filter(isCode).length;
      index = end;
    } else if (token.nesting === 1) stack.push(opened(token, parent));
    else if (token.nesting === -1) stack.pop();
    else if (isCode(token)) parent.appendChild(codeBlock(token, drawing, index === last));
    else if (token.type === "inline") inline(inlineTokens(token, drawing.environment), parent);
    else if (TAGS.has(token.tag)) parent.appendChild(document.createElement(token.tag));
  }
  return fragment;
}

/** Where the item that opens at `index` closes. */
export function itemEnd(tokens: readonly Token[], index: number): number {
  const level = tokens[index]?.level;
  let end = index + 1;
  while (end < tokens.length && (tokens[end]?.level !== level || tokens[end]?.nesting !== -1)) end++;
  return end;
}

export function isCode(token: Token): boolean {
  return token.type === "fence" || token.type === "code_block";
}

function inlineTokens(token: Token, environment: Env): readonly Token[] {
  return inlines.parseInline(token.content, environment)[0]?.children ?? [];
}

/** The last code block, if nothing but the ends of lists and quotes follows. */
function lastCode(tokens: readonly Token[]): number {
  let index = tokens.length - 1;
  while (index >= 0 && tokens[index]?.nesting === -1) index--;
  return tokens[index]?.type === "fence" ? index : -1;
}

function opened(token: Token, parent: Node): Node {
  const element = document.createElement(tagOf(token));
  if (token.type === "ordered_list_open") {
    const start = attribute(token, "start");
    if (start && /^\d{1,9}$/.test(start)) element.setAttribute("start", start);
  }
  const align = /^text-align:(left|right|center)$/.exec(attribute(token, "style") ?? "")?.[1];
  if (align) element.className = `align-${align}`;
  if (token.type === "table_open") parent.appendChild(h("div", { class: "table", tabindex: 0 }, element));
  else parent.appendChild(element);
  return element;
}

/** Headings of an answer stand below those of the page. */
function tagOf(token: Token): string {
  const level = /^h([1-6])$/.exec(token.tag)?.[1];
  if (level) return `h${Math.min(6, Number(level) + 2)}`;
  return TAGS.has(token.tag) ? token.tag : "div";
}

function inline(tokens: readonly Token[], into: Node): void {
  const stack: Node[] = [into];
  tokens.forEach((token, index) => {
    const parent = stack.at(-1) ?? into;
    if (token.nesting === 1) {
      const element = token.type === "link_open" ? linkTo(attribute(token, "href")) : inlineElement(token.tag);
      parent.appendChild(element);
      stack.push(element);
    } else if (token.nesting === -1) {
      if (stack.length > 1) stack.pop();
    } else parent.appendChild(leaf(token, index === 0 && parent === into && isItem(into)));
  });
}

function inlineElement(tag: string): HTMLElement {
  return document.createElement(TAGS.has(tag) ? tag : "span");
}

function leaf(token: Token, startsItem: boolean): Node {
  switch (token.type) {
    case "code_inline": {
      const file = fileInCode(token.content);
      return file ? h("code", { ...linkProps(file), class: "file" }, token.content) : h("code", {}, token.content);
    }
    case "softbreak":
      return document.createTextNode("\n");
    case "hardbreak":
      return document.createElement("br");
    case "image": {
      const name = token.content || "picture";
      const target = linkTarget(attribute(token, "src") ?? "");
      return target ? h("a", linkProps(target), name) : document.createTextNode(name);
    }
    default:
      return document.createTextNode(startsItem ? boxed(token.content) : token.content);
  }
}

/** `[ ] to do` and `[x] done` at the start of a list's item. */
function boxed(text: string): string {
  return text.replace(/^\[ \] /, "☐ ").replace(/^\[[xX]\] /, "☑ ");
}

function isItem(node: Node): boolean {
  const element = node as Element;
  return element.localName === "li" || element.parentElement?.localName === "li";
}

function linkTo(href: string | undefined): HTMLElement {
  const target = linkTarget(href ?? "");
  return target === undefined ? document.createElement("span") : h("a", linkProps(target));
}

function linkProps(target: string): Readonly<Record<string, string | number>> {
  return { role: "link", tabindex: 0, title: target, "data-href": target };
}

function attribute(token: Token, name: string): string | undefined {
  const value = token.attrs?.find(([key]) => key === name)?.[1];
  return value === undefined ? undefined : String(value);
}

function codeBlock(token: Token, drawing: Drawing, open: boolean): HTMLElement {
  const { language, path } = fenceInfo(token.type === "fence" ? token.info : "");
  const shown = open ? withoutHalfFence(token.content) : token.content;
  const name = [languageName(language), path].filter(Boolean).join(" · ") || "code";
  const code = h("code", {});
  const plain = open && shown.length > OPEN_COLOURED;
  code.append(...(plain ? [document.createTextNode(shown)] : highlighted(shown, language)));
  const number = drawing.blocks++;
  const actions = { role: "group", "aria-label": "What to do with this code", class: "code-actions" };
  return h(
    "div",
    {
      class: "code",
      role: "group",
      "aria-label": `Code: ${name}`,
      "data-block": number,
      "data-language": language,
      "data-path": path,
    },
    h(
      "div",
      { class: "code-head" },
      h("span", { class: "code-name", title: name }, name),
      h("span", actions, ...buttons(language)),
    ),
    h("pre", { tabindex: 0 }, code),
  );
}

function buttons(language: string): HTMLElement[] {
  const all = [
    iconButton("apply", "Apply to the file, with a diff", { "data-action": "apply" }),
    iconButton("insert", "Insert at the cursor", { "data-action": "insert" }),
    iconButton("copy", "Copy", { "data-action": "copy" }),
  ];
  if (isShell(language)) all.push(iconButton("run", "Run in the terminal", { "data-action": "runInTerminal" }));
  return all;
}

/** A last line that may become the end of the fence is not shown until it is known. */
export function withoutHalfFence(content: string): string {
  return content.replace(/(^|\n) {0,3}(?:`+|~+)$/, "$1");
}
