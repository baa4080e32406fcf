/** The last commands of the terminals and what they printed, as far as the shell tells. Pure; bounded. */

const COMMANDS = 5;
const LINES = 200;
const CHARACTERS = 40_000;

export interface Ran {
  readonly number: number;
  readonly command: string;
  /** Cleaned; the last 200 lines. */
  readonly output: string;
  /** Undefined: not known, or still running. */
  readonly exitCode: number | undefined;
}

/** One command that is being watched. */
export interface Watched {
  add(data: string): void;
  end(exitCode: number | undefined): void;
}

/** The newest five. */
export class Terminals {
  #ran: { number: number; command: string; raw: string; exitCode: number | undefined }[] = [];
  #next = 1;

  begin(command: string): Watched {
    const entry = { number: this.#next++, command: command.trim(), raw: "", exitCode: undefined as number | undefined };
    this.#ran.push(entry);
    if (this.#ran.length > COMMANDS) this.#ran.shift();
    return {
      add: (data) => {
        entry.raw += data;
        if (entry.raw.length > 2 * CHARACTERS) entry.raw = entry.raw.slice(-CHARACTERS);
      },
      end: (exitCode) => {
        entry.exitCode = exitCode;
      },
    };
  }

  /** Newest first. */
  all(): readonly Ran[] {
    return this.#ran.map(told).reverse();
  }

  get(number: number): Ran | undefined {
    const entry = this.#ran.find((each) => each.number === number);
    return entry === undefined ? undefined : told(entry);
  }
}

function told(entry: { number: number; command: string; raw: string; exitCode: number | undefined }): Ran {
  const { number, command, raw, exitCode } = entry;
  return { number, command, output: lastLines(plain(raw)), exitCode };
}

/** The last 200 lines, and of those the last 40,000 characters. */
export function lastLines(text: string): string {
  const lines = text.trimEnd().split("\n");
  const kept = lines.slice(-LINES).join("\n");
  const cut = kept.slice(-CHARACTERS);
  return lines.length > LINES || cut.length < kept.length ? `…\n${cut}` : cut;
}

/** Without escape sequences; what a carriage return or a backspace overwrote is gone. */
export function plain(data: string): string {
  const text = data
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is removed
    .replace(/\u001b\][\s\S]*?(?:\u0007|\u001b\\)/g, "")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is removed
    .replace(/\u001b[P^_][\s\S]*?\u001b\\/g, "")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is removed
    .replace(/\u001b\[[0-?]*[ -/]*[@-~]/g, "")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is removed
    .replace(/\u001b[ -/]*[0-~]/g, "")
    .replace(/\r+\n/g, "\n");
  return text
    .split("\n")
    .map((line) => erased(line.slice(line.lastIndexOf("\r") + 1)))
    .join("\n");
}

function erased(line: string): string {
  let kept = line;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a backspace erases
  while (/[^\u0008]\u0008/.test(kept)) kept = kept.replace(/[^\u0008]\u0008/g, "");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: bells and the like are not text
  return kept.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, "");
}
