/** Short names for instructions that come up again and again. */

export interface Preset {
  readonly name: string;
  readonly instruction: string;
}

export const PRESETS: readonly Preset[] = [
  { name: "/fix", instruction: "Find and fix what is wrong in this code. Change nothing else." },
  { name: "/doc", instruction: "Document this code in the language's usual form. Leave the code itself as it is." },
  { name: "/simplify", instruction: "Make this code simpler and easier to read. It must do the same as before." },
  { name: "/types", instruction: "Add types to this code. It must do the same as before." },
];

/** `/fix the loop` becomes the preset's words, then yours; anything else stays as it is. */
export function expand(typed: string): string {
  const text = typed.trim();
  const [first = "", ...rest] = text.split(/\s+/);
  const preset = PRESETS.find((one) => one.name === first.toLowerCase());
  if (preset === undefined) return text;
  const more = text.slice(first.length).trim();
  return rest.length > 0 ? `${preset.instruction}\n${more}` : preset.instruction;
}
