/** Random texts for property tests: the same for the same seed. */

/** Numbers from 0 to 1 (mulberry32). */
export function randomness(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

const WORDS = [
  "",
  "",
  "}",
  "  }",
  "{",
  "return x",
  "if (x) {",
  "const a = 1;",
  "const b = 2;",
  "call(a, b);",
  "// note",
];

export function randomLine(random: () => number): string {
  const word = WORDS[Math.floor(random() * WORDS.length)] ?? "";
  return random() < 0.3 ? `${word} ${Math.floor(random() * 30)}` : word;
}

export function randomLines(random: () => number, most: number): readonly string[] {
  return Array.from({ length: Math.floor(random() * (most + 1)) }, () => randomLine(random));
}

/** Some lines of it gone, changed, or with new ones between. */
export function mutated(lines: readonly string[], random: () => number): readonly string[] {
  return lines.flatMap((line) => {
    const dice = random();
    if (dice < 0.12) return [];
    if (dice < 0.24) return [`${line}!`];
    if (dice < 0.34) return [line, randomLine(random)];
    return [line];
  });
}
