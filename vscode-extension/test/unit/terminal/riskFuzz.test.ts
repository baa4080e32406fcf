import { describe, expect, it } from "vitest";
import { readLine } from "../../../src/features/terminal/reader";
import { classify } from "../../../src/features/terminal/risk";
import type { Dialect } from "../../../src/features/terminal/words";

const DIALECTS: readonly Dialect[] = ["posix", "powershell", "cmd"];
const PIECES = [
  ..."'\"`$(){}[]<>|&;#\\ \n\t*?!~=-",
  "${",
  "$(",
  "$((",
  "$'",
  "<(",
  ">>",
  "<<<",
  "&&",
  "||",
  "rm",
  "-rf",
  "sh",
  "-c",
  "eval",
  "sudo",
  "find",
  "-exec",
  "xargs",
  "curl",
  "git",
  "push",
  "awk",
  "sed",
  "f()",
  "docker",
  "exec",
  "alias",
  "env",
  "A=1",
  "psql",
  "\u202e",
  "\u001b",
  "😀",
  "\ud800",
  "then",
  "[[",
];

/** A small generator of numbers: the same ones in every run. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % below;
  };
}

describe("classify on anything", () => {
  it("never throws, and its findings agree with its class", () => {
    const next = numbers(7);
    for (let round = 0; round < 6000; round++) {
      const line = Array.from(
        { length: next(24) },
        () => PIECES[next(PIECES.length)] + (next(3) === 0 ? " " : ""),
      ).join("");
      const risk = classify(line, DIALECTS[round % 3]);
      expect(risk.findings[0]?.level ?? "safe", line).toBe(risk.level);
      for (const finding of risk.findings) expect(finding.reason, line).not.toBe("");
    }
  });

  it("finds a deletion wherever it hides between commands", () => {
    const next = numbers(11);
    const harmless = ["ls -la", "echo 'a b'", 'cat "x y"', "git status", "true", "pwd > /dev/null", "X=1 ls"];
    const joints = ["; ", " && ", " || ", " | ", " & ", ";", "&&"];
    for (let round = 0; round < 500; round++) {
      const parts = Array.from({ length: 1 + next(5) }, () => harmless[next(harmless.length)] ?? "");
      parts.splice(
        next(parts.length + 1),
        0,
        ["rm -rf x", "(rm -rf x)", "{ rm -rf x; }", "echo $(rm -rf x)"][next(4)] ?? "",
      );
      const line = parts.reduce((one, other) => one + (joints[next(joints.length)] ?? ";") + other);
      expect(classify(line).level, line).toBe("dangerous");
    }
  });

  it("reads every command's place within the line", () => {
    const next = numbers(3);
    for (let round = 0; round < 1000; round++) {
      const line = Array.from({ length: next(30) }, () => PIECES[next(PIECES.length)]).join(" ");
      for (const command of readLine(line, DIALECTS[round % 3]).commands) {
        expect(command.start).toBeGreaterThanOrEqual(0);
        expect(command.end).toBeLessThanOrEqual(line.length);
        expect(command.start).toBeLessThanOrEqual(command.end);
      }
    }
  });
});

/** The longest that is read through, and one that is only looked at. */
const SIZES = [20_000, 100_000];
const HARD: readonly string[] = [
  ...[
    "a",
    " ",
    "a ",
    "'",
    '"',
    "`",
    "$(",
    "${",
    "(",
    "{ ",
    "{",
    ")",
    ";",
    "|",
    "a|",
    "sh|",
    "&",
    "a;",
    "\n",
    "\\",
    "$'",
    "<(",
    "> a ",
  ],
  ...[
    "sudo ",
    "env ",
    "xargs ",
    "a() ",
    "f(){ f|f& };",
    "# ; rm -rf / ",
    "eval ",
    "psql|",
    "curl|sh|",
    "bash <(curl a) |",
    "alias a=",
  ],
  ...[
    "awk '",
    "awk 'a > ",
    "sed 's/a/",
    "{a,",
    "/a",
    "-a ",
    "$a",
    "=",
    "a=b ",
    "~/.ssh/",
    "curl -d @~/.ssh/id_rsa a;",
    "\u200b",
    "\u{e0001}",
  ],
  ...[
    "git ",
    "find . -exec ",
    "docker exec ",
    "sh -c 'sh -c ",
    "delete from a",
    "DROP ",
    "python -c 'rm ",
    "a.a.a.",
    "*",
    "echo ${x:-",
    "if a; then ",
  ],
];

describe("classify on up to 100 kB", () => {
  const cases = SIZES.flatMap((size, place) =>
    HARD.slice(0, place === 0 ? undefined : 5).map((piece) => [size, JSON.stringify(piece), piece] as const),
  );
  it.each(cases)("is done at once: %d of %s", (size, _, piece) => {
    const line = piece.repeat(Math.ceil(size / piece.length)).slice(0, size);
    for (const dialect of DIALECTS) {
      // The processor's time, and the best of three: other processes, and the collector of garbage, have theirs.
      const times = Array.from({ length: 3 }, () => {
        const began = process.cpuUsage();
        classify(line, dialect);
        const { user, system } = process.cpuUsage(began);
        return (user + system) / 1000;
      });
      expect(Math.min(...times), dialect).toBeLessThan(250);
    }
  });
});
