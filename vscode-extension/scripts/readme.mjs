// The README for the package: an installed extension asks no other host, so its page has no pictures and no links into the
// repository, which the packager would turn into addresses of one. `build.mjs --production` writes it.
import { readFileSync, writeFileSync } from "node:fs";

const PICTURE = /^!\[[^\]]*\]\([^)]*\)$/;
const RELATIVE = /\[([^\]]*)\]\((?!#|[a-z]+:)[^)]*\)/g;

/** Paragraphs that are pictures, or speak of them, go; a link to a file becomes its words. */
export function packaged(text) {
  const paragraphs = text.split(/\n{2,}/);
  const kept = paragraphs.filter((one) => !PICTURE.test(one.trim()) && !one.startsWith("The pictures here"));
  return kept.join("\n\n").replace(RELATIVE, "$1");
}

export function writePackaged(from, to) {
  writeFileSync(to, packaged(readFileSync(from, "utf8")));
}
