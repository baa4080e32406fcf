/** What was read of each file, on disk: a restart reads again only what has changed. Damaged or of other rules: rebuilt. */

import { createHash } from "node:crypto";
import { mkdir, open, readFile, rename, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { Breath } from "../../api/breath";
import type { Entry } from "./entry";
import { MAX_FILES } from "./ignored";
import { SECRET_RULES } from "./secrets";

const MAX_BYTES = 96 << 20;
const PIECE = 256 << 10;

/** Begins the file: what was judged under other rules is judged again. */
function mark(root: string, limit: number): string {
  const rules = createHash("sha256").update(`1\0${root}\0${limit}\0${SECRET_RULES}`).digest("hex").slice(0, 24);
  return `aicockpit ledger ${rules}`;
}

/** What is known of `root`; nothing when the file is not there, damaged, or of other rules. */
export async function loadLedger(file: string, root: string, limit: number): Promise<Map<string, Entry>> {
  const found = new Map<string, Entry>();
  try {
    if ((await stat(file)).size > MAX_BYTES) return found;
    const text = await readFile(file, "utf8");
    const breath = new Breath();
    let start = 0;
    for (let number = 0; start < text.length; number++) {
      const end = text.indexOf("\n", start);
      const line = text.slice(start, end < 0 ? text.length : end);
      if (number === 0 && line !== mark(root, limit)) return new Map();
      if (line === "end") return found;
      if (number > 0 && !take(found, line)) return new Map();
      if (end < 0 || found.size > MAX_FILES) break;
      start = end + 1;
      if (breath.due()) await breath.take();
    }
  } catch {
    // It is only a saving of work: whatever is wrong with it, every file is read again.
  }
  return new Map();
}

function take(found: Map<string, Entry>, line: string): boolean {
  const [hash, size, mtime, ctime, inode, why, secret, ...rest] = line.split(" ");
  const sound = /^(?:[0-9a-f]{32}|-) \d{1,15} -?\d{1,20} -?\d{1,20} \d{1,20} (?:-|[a-z]{1,20}) [01] "/.test(line);
  if (!sound || hash === undefined || mtime === undefined || ctime === undefined || inode === undefined) return false;
  const path: unknown = JSON.parse(rest.join(" "));
  if (typeof path !== "string") return false;
  found.set(path, {
    hash: hash === "-" ? "" : hash,
    size: Number(size),
    mtimeNs: BigInt(mtime),
    ctimeNs: BigInt(ctime),
    inode: BigInt(inode),
    why: why === "-" || why === undefined ? "" : why,
    secret: secret === "1",
  });
  return true;
}

/** Replaces the file as a whole. Throws when it cannot be written. */
export async function saveLedger(
  file: string,
  root: string,
  limit: number,
  entries: ReadonlyMap<string, Entry>,
): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}.new`;
  const out = await open(temporary, "w", 0o600);
  try {
    const breath = new Breath();
    let piece = `${mark(root, limit)}\n`;
    for (const [path, entry] of entries) {
      const { hash, size, mtimeNs, ctimeNs, inode, why, secret } = entry;
      const words = `${hash || "-"} ${size} ${mtimeNs} ${ctimeNs} ${inode} ${why || "-"} ${secret ? 1 : 0}`;
      piece += `${words} ${JSON.stringify(path)}\n`;
      if (piece.length >= PIECE) {
        await out.write(piece);
        piece = "";
      }
      if (breath.due()) await breath.take();
    }
    await out.write(`${piece}end\n`);
  } catch (error) {
    await out.close();
    await rm(temporary, { force: true });
    throw error;
  }
  await out.close();
  await rename(temporary, file);
}
