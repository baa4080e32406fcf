/** A folder as text: its tree, then the beginnings of its files, within a budget. Pure and the same for the same files. */

const ENTRIES = 300;
const HEAD_LINES = 40;
const HEAD_CHARACTERS = 2_000;
const FIRST =
  /(^|\/)(readme(\.\w+)?|index\.\w+|main\.\w+|mod\.rs|lib\.rs|__init__\.py|package\.json|pyproject\.toml)$/i;

/** The files whose beginnings tell most: readmes and entry points, then the less deep, then by name. */
export function inOrder(paths: readonly string[]): readonly string[] {
  const keys = new Map(paths.map((path) => [path, [FIRST.test(path) ? 0 : 1, path.split("/").length] as const]));
  const key = (path: string): readonly [number, number] => keys.get(path) ?? [1, 0];
  return [...paths].sort((one, other) => {
    const [first, second] = [key(one), key(other)];
    return first[0] - second[0] || first[1] - second[1] || (one < other ? -1 : one > other ? 1 : 0);
  });
}

/** An indented tree of paths with `/`; what is past 300 rows is counted. */
export function tree(paths: readonly string[]): string {
  const rows: string[] = [];
  const seen = new Set<string>();
  for (const path of [...paths].sort()) {
    const parts = path.split("/");
    for (let depth = 1; depth < parts.length; depth++) {
      const folder = parts.slice(0, depth).join("/");
      if (seen.has(folder)) continue;
      seen.add(folder);
      rows.push(`${"  ".repeat(depth - 1)}${parts[depth - 1]}/`);
    }
    rows.push(`${"  ".repeat(parts.length - 1)}${parts.at(-1)}`);
  }
  const more = rows.length - ENTRIES;
  return more > 0 ? [...rows.slice(0, ENTRIES), `… ${more} more`].join("\n") : rows.join("\n");
}

/** The beginning of a file: 40 lines or 2,000 characters. */
export function head(text: string): string {
  const cut = text.split("\n", HEAD_LINES).join("\n").slice(0, HEAD_CHARACTERS).trimEnd();
  return cut.length < text.trimEnd().length ? `${cut}\n…` : cut;
}

/** The tree, then heads as long as they fit into `budget` characters. `read` gives undefined for what cannot be read. */
export async function folderText(
  paths: readonly string[],
  read: (path: string) => Promise<string | undefined>,
  budget: number,
): Promise<{ readonly text: string; readonly heads: number }> {
  let text = tree(paths).slice(0, budget);
  let heads = 0;
  for (const path of inOrder(paths)) {
    if (text.length >= budget) break;
    const content = await read(path);
    if (content === undefined || content.trim() === "") continue;
    const part = `\n\n--- ${path}\n${head(content)}`;
    if (text.length + part.length > budget) continue;
    text += part;
    heads++;
  }
  return { text, heads };
}
