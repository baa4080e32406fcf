/** What a shell command line is made of. */

export type Dialect = "posix" | "powershell" | "cmd";

/** A word as the shell would hand it on, as far as that can be told beforehand. */
export interface Word {
  readonly text: string;
  /** A part of it is only known when it runs: a variable, a substitution. */
  readonly dynamic: boolean;
  /** Unquoted `*`, `?`, `[` or `{a,b}`. */
  readonly glob: boolean;
  readonly quoted: boolean;
}

export interface Redirect {
  /** `>`, `>>`, `<`, `<<`, `<<<`, `>&`, `&>`, `>|`, `<>`. */
  readonly operator: string;
  readonly target: Word;
}

/** One program with its words. */
export interface Simple {
  readonly words: readonly Word[];
  readonly redirects: readonly Redirect[];
  /** Its place in the line. */
  readonly start: number;
  readonly end: number;
  /** The index of the pipeline it stands in; commands of one pipe share it. */
  readonly pipeline: number;
  /** It reads what the one before it in its pipeline writes. */
  readonly piped: boolean;
  readonly background: boolean;
  /** Behind a `#`, which not every interactive shell leaves out. */
  readonly comment: boolean;
  /** How deep in substitutions, blocks and parentheses. */
  readonly depth: number;
}

export interface Line {
  readonly commands: readonly Simple[];
  /** Names of functions that the line defines. */
  readonly functions: readonly string[];
  /** `!!`, `!rm`: an interactive shell puts an earlier command there. */
  readonly repeats: boolean;
  /** Why it could not be read to the end; empty: it could. */
  readonly unread: string;
}
