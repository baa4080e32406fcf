/** Reads a shell command line into its commands, words and redirections, without running anything. One pass, linear. */

import type { Dialect, Line, Redirect, Simple, Word } from "./words";

const DEEPEST = 60;
const MOST_COMMANDS = 2000;
const OPERATORS = /[;&|<>()\s]/;
const SPACE = /\s/;
const ESCAPE: Readonly<Record<Dialect, string>> = { posix: "\\", powershell: "`", cmd: "^" };

/** Never throws; what cannot be understood is told in `unread`. */
export function readLine(text: string, dialect: Dialect = "posix"): Line {
  return new Reader(text, dialect).line();
}

interface Open {
  words: Word[];
  redirects: Redirect[];
  start: number;
  piped: boolean;
  pipeline: number;
}

interface Draft {
  text: string;
  dynamic: boolean;
  glob: boolean;
  quoted: boolean;
  any: boolean;
}

class Reader {
  readonly #commands: Simple[] = [];
  readonly #functions: string[] = [];
  readonly #escape: string;
  #at = 0;
  #depth = 0;
  #pipelines = 0;
  #comment = false;
  #repeats = false;
  #unread = "";

  constructor(
    private readonly text: string,
    private readonly dialect: Dialect,
  ) {
    this.#escape = ESCAPE[dialect];
  }

  line(): Line {
    while (this.#at < this.text.length && !this.#stuck()) {
      this.#list("");
      if (this.#at < this.text.length) this.#at++; // a stray closing bracket
    }
    return { commands: this.#commands, functions: this.#functions, repeats: this.#repeats, unread: this.#unread };
  }

  #stuck(): boolean {
    return this.#unread.startsWith("too");
  }

  #fail(why: string): void {
    if (this.#unread === "") this.#unread = why;
  }

  /** Reads commands until `end` (`)`, `}`, a backtick; empty: the text's), and leaves the position before it. */
  #list(end: string, piped = false): void {
    if (this.#depth >= DEEPEST) {
      this.#unread = "too deeply nested";
      this.#at = this.text.length;
      return;
    }
    this.#depth++;
    let open = this.#begin(piped, this.#pipelines++);
    while (this.#at < this.text.length && !this.#stuck()) {
      const character = this.text[this.#at] ?? "";
      if (character === end && !(end === "}" && !this.#closesBlock(open))) break;
      if (character === ")") break;
      if (character === "\n" || character === ";" || character === "&" || character === "|") {
        open = this.#separator(open, character);
      } else if (SPACE.test(character)) {
        this.#at++;
      } else if (character === "<" || character === ">") {
        this.#redirect(open, "");
      } else if (character === "(") {
        this.#bracket(open);
      } else if (this.#opensBlock(open, character)) {
        this.#block("}");
      } else {
        this.#wordOf(open);
      }
    }
    this.#end(open, false);
    this.#depth--;
  }

  #begin(piped: boolean, pipeline: number): Open {
    return { words: [], redirects: [], start: this.#at, piped, pipeline };
  }

  #end(open: Open, background: boolean): void {
    if (open.words.length === 0 && open.redirects.length === 0) return;
    const { words, redirects, start, piped, pipeline } = open;
    const [comment, depth] = [this.#comment, this.#depth];
    this.#commands.push({
      words,
      redirects,
      start,
      end: Math.min(this.#at, this.text.length),
      pipeline,
      piped,
      background,
      comment,
      depth,
    });
    if (this.#commands.length >= MOST_COMMANDS) this.#unread = "too long";
  }

  #separator(open: Open, character: string): Open {
    const two = this.text.slice(this.#at, this.#at + 2);
    if (two === "&>") {
      this.#redirect(open, "&");
      return open;
    }
    if (character === "&" && two !== "&&" && this.dialect === "powershell" && open.words.length === 0) {
      open.words.push({ text: "&", dynamic: false, glob: false, quoted: false }); // starts what follows
      this.#at++;
      return open;
    }
    const pipe = character === "|" && two !== "||";
    this.#end(open, character === "&" && two !== "&&");
    this.#at += two === "&&" || two === "||" || two === "|&" || two === ";;" ? 2 : 1;
    if (character === "\n") this.#comment = false;
    return pipe ? this.#begin(true, open.pipeline) : this.#begin(false, this.#pipelines++);
  }

  #opensBlock(open: Open, character: string): boolean {
    if (character !== "{") return false;
    if (this.dialect === "powershell") return true;
    if (this.dialect === "cmd" || open.words.length > 0) return false;
    const next = this.text[this.#at + 1];
    return next === undefined || SPACE.test(next) || next === "(";
  }

  #closesBlock(open: Open): boolean {
    return this.dialect === "powershell" || open.words.length === 0;
  }

  #block(end: string, piped = false): void {
    this.#at++;
    this.#list(end, piped);
    if (this.text[this.#at] === end) this.#at++;
  }

  /** `( … )`: a subshell; behind one word, `name()`: a function. */
  #bracket(open: Open): void {
    const name = open.words.at(-1)?.text;
    const close = /^\(\s*\)/.exec(this.text.slice(this.#at, this.#at + 8));
    if (close !== null && name !== undefined && open.words.length === 1) {
      this.#functions.push(name);
      open.words.length = 0;
      this.#at += close[0].length;
      return;
    }
    this.#block(")");
  }

  #redirect(open: Open, before: string): void {
    const match = /^&?(?:<<<|<<-?|>>|>\||<>|>&|<&|[<>])/.exec(this.text.slice(this.#at, this.#at + 4));
    const operator = match?.[0] ?? ">";
    this.#at += operator.length;
    if (this.text[this.#at] === "(" && before === "" && (operator === "<" || operator === ">")) {
      // A process substitution stands for a file: a word that is only known when it runs.
      this.#block(")", operator === ">");
      open.words.push({ text: `${operator}(…)`, dynamic: true, glob: false, quoted: false });
      return;
    }
    while (this.text[this.#at] === " " || this.text[this.#at] === "\t") this.#at++;
    const target = this.#word();
    if (target !== undefined) open.redirects.push({ operator, target });
  }

  #wordOf(open: Open): void {
    const from = this.#at;
    const word = this.#word();
    if (word === undefined) {
      this.#at = Math.max(this.#at, from + 1); // an operator nobody claims: never stand still
      return;
    }
    const next = this.text[this.#at];
    const number = /^\d{1,2}$/.test(word.text) && !word.quoted && (next === ">" || next === "<");
    if (number) return;
    if (word.text.startsWith("#") && !word.quoted && this.dialect !== "cmd") this.#startComment(open);
    open.words.push(word);
  }

  #startComment(open: Open): void {
    if (this.#comment) return;
    this.#end(open, false);
    this.#comment = true;
    open.words = [];
    open.redirects = [];
    open.start = this.#at;
  }

  /** The word at this place; undefined where none begins. */
  #word(): Word | undefined {
    const draft: Draft = { text: "", dynamic: false, glob: false, quoted: false, any: false };
    while (this.#at < this.text.length && !this.#stuck()) {
      const character = this.text[this.#at] ?? "";
      if (OPERATORS.test(character)) break;
      if (character === "}" && this.dialect === "powershell") break;
      if (character === "`" && this.dialect === "posix") {
        if (!this.#backticks(draft)) break;
      } else this.#piece(draft, character);
      draft.any = true;
    }
    if (!draft.any) return undefined;
    const { text, dynamic, glob, quoted } = draft;
    return { text, dynamic, glob: glob || (!quoted && /\{[^{}]*,/.test(text.slice(0, 400))), quoted };
  }

  #piece(draft: Draft, character: string): void {
    if (character === this.#escape) {
      draft.text += this.text[this.#at + 1] === "\n" ? "" : (this.text[this.#at + 1] ?? "");
      draft.quoted = true;
      this.#at += 2;
    } else if (this.#comment && (character === "'" || character === '"')) this.#at++;
    else if (character === "'" && this.dialect !== "cmd") this.#single(draft);
    else if (character === '"') this.#double(draft);
    else if (character === "$" && this.dialect !== "cmd") this.#dollar(draft, false);
    else {
      this.#noticeRepeat(character);
      if (character === "*" || character === "?" || character === "[") draft.glob = true;
      if (character === "%" && this.dialect === "cmd") draft.dynamic = true;
      draft.text += character;
      this.#at++;
    }
  }

  #single(draft: Draft): void {
    draft.quoted = true;
    let close = this.text.indexOf("'", this.#at + 1);
    if (close < 0) {
      this.#fail("a quote is not closed");
      close = this.text.length;
    }
    draft.text += this.text.slice(this.#at + 1, close);
    this.#at = close + 1;
  }

  #double(draft: Draft): void {
    draft.quoted = true;
    this.#at++;
    while (this.#at < this.text.length && !this.#stuck()) {
      const character = this.text[this.#at] ?? "";
      if (character === '"') {
        this.#at++;
        return;
      }
      if (character === this.#escape && this.dialect !== "cmd") {
        const next = this.text[this.#at + 1] ?? "";
        draft.text += this.dialect === "powershell" || '"\\$`'.includes(next) ? next : `\\${next === "\n" ? "" : next}`;
        this.#at += 2;
      } else if (character === "$" && this.dialect !== "cmd") this.#dollar(draft, true);
      else if (character === "`" && this.dialect === "posix") {
        if (!this.#backticks(draft)) return;
      } else {
        this.#noticeRepeat(character);
        draft.text += character;
        this.#at++;
      }
    }
    this.#fail("a quote is not closed");
  }

  #insideBackticks = false;

  /** A command between backticks. False: this is the closing one. */
  #backticks(draft: Draft): boolean {
    if (this.#insideBackticks) return false;
    this.#insideBackticks = true;
    draft.dynamic = true;
    draft.text += "$(…)";
    this.#at++;
    while (this.#at < this.text.length && this.text[this.#at] !== "`" && !this.#stuck()) {
      this.#list("`");
      if (this.#at < this.text.length && this.text[this.#at] !== "`") this.#at++;
    }
    this.#insideBackticks = false;
    if (this.text[this.#at] === "`") this.#at++;
    else this.#fail("a backtick is not closed");
    return true;
  }

  #dollar(draft: Draft, quoted: boolean): void {
    const next = this.text[this.#at + 1] ?? "";
    if (next === "'" && !quoted && this.dialect === "posix") {
      this.#ansi(draft);
      return;
    }
    if (next === '"' && !quoted) {
      this.#at++;
      return;
    }
    if (next === "(" && this.text[this.#at + 2] === "(" && this.dialect === "posix") {
      this.#arithmetic(draft);
      return;
    }
    if (next === "(") {
      draft.dynamic = true;
      this.#at++;
      this.#block(")");
      draft.text += "$(…)";
      return;
    }
    if (next === "{") {
      this.#braces(draft);
      return;
    }
    const name = /^(?:\w+(?::\w+)?|[@*#?$!-])/.exec(this.text.slice(this.#at + 1, this.#at + 64))?.[0] ?? "";
    draft.text += `$${name}`;
    if (name !== "") draft.dynamic = true;
    this.#at += 1 + name.length;
  }

  /** `$((1 + 2))`, in which only substitutions run. */
  #arithmetic(draft: Draft): void {
    draft.dynamic = true;
    draft.text += "$((…))";
    this.#at += 3;
    this.#depth++;
    while (this.#at < this.text.length && !this.text.startsWith("))", this.#at) && this.#depth < DEEPEST) {
      if (this.text[this.#at] === "$" && /[({]/.test(this.text[this.#at + 1] ?? "")) this.#dollar(draft, true);
      else if (this.text[this.#at] !== "`" || !this.#backticks(draft)) this.#at++;
    }
    if (this.#depth >= DEEPEST) this.#unread = "too deeply nested";
    this.#depth--;
    this.#at += 2;
  }

  #noticeRepeat(character: string): void {
    if (character !== "!" || this.dialect !== "posix") return;
    if (/^[!\w?-]/.test(this.text[this.#at + 1] ?? "") && !/[$[{]/.test(this.text[this.#at - 1] ?? ""))
      this.#repeats = true;
  }

  /** `${name:-default}`; the default may hold commands. */
  #braces(draft: Draft): void {
    draft.dynamic = true;
    draft.text += "${";
    this.#at += 2;
    this.#depth++;
    while (this.#at < this.text.length && this.text[this.#at] !== "}" && this.#depth < DEEPEST) {
      const character = this.text[this.#at] ?? "";
      if (character === "$" && /[({]/.test(this.text[this.#at + 1] ?? "")) this.#dollar(draft, true);
      else if (character === "`" && this.dialect === "posix" && this.#backticks(draft)) continue;
      else {
        draft.text += character;
        this.#at++;
      }
    }
    if (this.#depth >= DEEPEST) this.#unread = "too deeply nested";
    this.#depth--;
    draft.text += "}";
    this.#at++;
  }

  /** `$'…'` with its escapes, which can spell a word in numbers. */
  #ansi(draft: Draft): void {
    draft.quoted = true;
    this.#at += 2;
    let inner = "";
    while (this.#at < this.text.length && this.text[this.#at] !== "'") {
      if (this.text[this.#at] === "\\") inner += this.text[this.#at++] ?? "";
      inner += this.text[this.#at++] ?? "";
    }
    this.#at++;
    draft.text += inner.replace(/\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|([0-7]{1,3})|(.))/gs, spelled);
  }
}

const NAMED: Readonly<Record<string, string>> = { n: "\n", t: "\t", r: "\r", e: "\u001b", E: "\u001b", a: "\u0007" };

function spelled(_: string, hex?: string, unicode?: string, octal?: string, other?: string): string {
  const digits = hex ?? unicode;
  if (digits !== undefined) return String.fromCharCode(Number.parseInt(digits, 16));
  if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8) & 0xff);
  return NAMED[other ?? ""] ?? other ?? "";
}
