import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { describe, expect, it } from "vitest";

const ROOT = resolve(import.meta.dirname, "../../..");
const GATEWAY = resolve(ROOT, "../src/aicockpit/gateway");

/** `METHOD /path/*` for each request by hand. */
function written(): readonly string[] {
  const text = readFileSync(join(ROOT, "requests.http"), "utf8");
  const found = [...text.matchAll(/^(GET|POST|PUT|DELETE|WEBSOCKET) \{\{url\}\}(\S+)/gm)];
  return found.map(([, method, path]) => `${method} ${(path ?? "").replace(/\?.*/, "")}`);
}

/** The gateway's own routes and the engine's, out of its source. */
function routes(): readonly string[] {
  const found: string[] = [];
  for (const name of readdirSync(GATEWAY)) {
    if (!name.endsWith(".py")) continue;
    const source = readFileSync(join(GATEWAY, name), "utf8");
    for (const [, method, path] of source.matchAll(/@app\.(get|post|put|delete|patch)\(\s*"([^"]+)"/g)) {
      found.push(`${method?.toUpperCase()} ${path}`);
    }
    if (name === "openai.py") {
      const table = source.slice(source.indexOf("ROUTES:"), source.indexOf("}", source.indexOf("ROUTES:")));
      for (const [, path] of table.matchAll(/"(\/[^"]+)":/g)) found.push(`POST ${path}`);
    }
  }
  return found;
}

function matches(route: string, request: string): boolean {
  const pattern = route.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{[^}]*\}/g, "[^/]+");
  return new RegExp(`^${pattern}$`).test(request.replace(/\{\{[^}]*\}\}/g, "x"));
}

describe("the requests by hand", () => {
  it("have one for each route of the gateway", () => {
    const known = written();
    // Said in the title of the same route under its first name.
    const doubles = new Set(["POST /v1/score", "POST /v1/rerank", "POST /v2/rerank"]);
    const all = routes();
    expect(all.length).toBeGreaterThan(40);
    expect(all.filter((route) => !doubles.has(route) && !known.some((request) => matches(route, request)))).toEqual([]);
  });

  it("have bodies that are JSON where they say so", () => {
    const blocks = readFileSync(join(ROOT, "requests.http"), "utf8").split(/^###.*$/m);
    let checked = 0;
    for (const block of blocks) {
      if (!block.includes("Content-Type: application/json")) continue;
      const body = block.slice(block.indexOf("{", block.indexOf("\n\n", block.indexOf("Content-Type"))));
      expect(() => JSON.parse(body), block).not.toThrow();
      checked++;
    }
    expect(checked).toBeGreaterThan(20);
  });
});
