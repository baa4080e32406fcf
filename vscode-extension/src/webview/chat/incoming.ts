/** What is dropped or pasted into the question: files by their address, pictures by their content. */

export const MOST_IMAGES = 4;
export const MOST_IMAGE_BYTES = 8 * 1024 * 1024;
const MOST_URIS = 50;
const PICTURES: ReadonlySet<string> = new Set(["image/png", "image/jpeg", "image/gif", "image/webp"]);

/** Addresses of what was dragged in from the explorer, an editor's tab, or another program; each once. */
export function droppedUris(data: Pick<DataTransfer, "getData">): string[] {
  const found = [
    ...lines(data.getData("application/vnd.code.uri-list")),
    ...listed(data.getData("resourceurls")),
    ...listed(data.getData("codefiles")).map(fileUri),
    ...lines(data.getData("text/uri-list")),
  ];
  const addresses = found.filter((uri) => /^[a-z][a-z0-9+.-]*:\/\//i.test(uri) && !/^https?:/i.test(uri));
  return [...new Set(addresses)].slice(0, MOST_URIS);
}

/** Pictures among files. */
export function pictures(files: Iterable<File>): File[] {
  return [...files].filter((file) => PICTURES.has(file.type));
}

/** A picture as a data URL; throws where the file cannot be read. */
export function dataUrl(file: File): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error("The picture cannot be read."));
    reader.readAsDataURL(file);
  });
}

function lines(text: string): string[] {
  return text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

function listed(text: string): string[] {
  if (text === "") return [];
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
  } catch {
    return []; // not the editor's
  }
}

function fileUri(path: string): string {
  const slashed = path.replace(/\\/g, "/");
  return `file://${slashed.startsWith("/") ? "" : "/"}${encodeURI(slashed).replace(/[?#]/g, encodeURIComponent)}`;
}
