import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  blockOf,
  including,
  isSecretPath,
  judge,
  linesOf,
  Rules,
  secretIn,
} from "../../../src/features/workspace/rules";
import { holdsKey, SECRET_NAMES } from "../../../src/features/workspace/secrets";
import { bytesOf, parsePattern } from "../../../src/features/workspace/wildmatch";
import { hash } from "./rig";
import vectors from "./vectors.json";

type Decision = readonly [string, boolean, boolean, readonly string[]];

describe("the server's own rules (vectors.py)", () => {
  it.each(vectors.decisions as unknown as Decision[])(
    "decides %j (without case: %s) alike",
    (pattern, ignoreCase, ...rest) => {
      const [parses, matches] = rest;
      expect(parsePattern(bytesOf(pattern), ignoreCase) !== undefined).toBe(parses);
      const block = blockOf(bytesOf(pattern), "", "git", ignoreCase);
      const paths = new Set((vectors.decisions as unknown as Decision[]).flatMap(([, , , found]) => found));
      const found = [...paths].filter((shown) => {
        const folder = shown.endsWith("/");
        const path = bytesOf(folder ? shown.slice(0, -1) : shown);
        return block?.decide(path, path.slice(path.lastIndexOf("/") + 1), folder) !== undefined;
      });
      expect(found.sort()).toEqual([...matches].sort());
    },
  );

  it.each(vectors.secrets as [string, string, boolean][])("judges the content of %j %j alike", (path, text, held) => {
    expect(holdsKey(path, Buffer.from(text))).toBe(held);
  });

  it.each(vectors.hashes as [number, number, number, string][])(
    "hashes %i %i %i alike",
    (start, step, size, expected) => {
      const data = Uint8Array.from({ length: size }, (_, place) => (start + step * place) % 256);
      expect(hash(data)).toBe(expected);
      expect(hash(data), "again, with the same state").toBe(expected);
    },
  );

  it("holds back the names that docs/indexing.md lists", () => {
    const page = readFileSync(join(import.meta.dirname, "../../../../docs/indexing.md"), "utf8");
    const listed = page.split("<!-- secrets:begin -->\n```\n")[1]?.split("```\n<!-- secrets:end -->")[0];
    expect(SECRET_NAMES).toEqual(listed?.trim().split("\n"));
  });
});

describe("rules", () => {
  const inside = (own: string, git?: string): Rules => Rules.first().enter("", git, own);

  it("never lets a secret through by its name, whatever its case", () => {
    const rules = Rules.first();
    for (const path of [".env", "a/.ENV.local", "ID_RSA", "x/server.pem", "a/.kube/config", "Secrets.YAML"]) {
      expect(rules.excludes(path, false), path).toBe("secret");
    }
    expect(rules.excludes(".aws", true)).toBe("secret");
    expect(rules.excludes("credentials", true), "a folder of that name holds code").toBe("");
    expect(rules.excludes("environment.ts", false)).toBe("");
  });

  it("gives the last word to .aicockpitignore", () => {
    const rules = inside("big/\n!.env.example\n!generated/\n", "generated/\n*.log\n!keep.log\n");
    expect(rules.excludes("big", true)).toBe("own");
    expect(rules.excludes(".env.example", false)).toBe("");
    expect(rules.allows(".env.example")).toBe(true);
    expect(rules.allows("a.txt")).toBe(false);
    expect(rules.excludes("generated", true)).toBe("");
    expect(rules.excludes("a.log", false)).toBe("git");
    expect(rules.excludes("keep.log", false)).toBe("");
  });

  it("lets the nearest folder decide, and patterns begin at their own folder", () => {
    const rules = inside("/only\n*.tmp\n").enter("sub", undefined, "!a.tmp\n/only\n");
    expect(rules.excludes("only", false)).toBe("own");
    expect(rules.excludes("sub/only", false)).toBe("own");
    expect(rules.excludes("sub/x/only", false)).toBe("");
    expect(rules.excludes("sub/a.tmp", false)).toBe("");
    expect(rules.excludes("sub/b.tmp", false)).toBe("own");
  });

  it("counts folders above the opened one", () => {
    const rules = Rules.first("pkg/").above("", "*.gen\n", "/pkg/private\n");
    expect(rules.excludes("private", true)).toBe("own");
    expect(rules.excludes("x.gen", false)).toBe("git");
    expect(rules.enter("deep", undefined, "/pkg\n").excludes("deep/pkg", false)).toBe("own");
  });

  it("reads lines with a mark at the beginning and any line end", () => {
    expect(linesOf("\xef\xbb\xbfa\r\nb\n")).toEqual(["a", "b", ""]);
    expect(blockOf("# nothing\n\n", "", "git")).toBeUndefined();
  });

  it("writes the line that brings one file back", () => {
    for (const path of ["a/b.txt", "a*[x]\\.txt", "ends "]) {
      const rules = inside(bytesOf(including(path)), "*\n");
      expect(rules.allows(path), path).toBe(true);
    }
  });
});

it.each([
  [".env", true],
  ["src/.env.local", true],
  ["../outside/id_rsa", true],
  ["/home/me/.ssh/config", true],
  ["C:\\Users\\me\\.aws\\config", true],
  ["deep/server.PEM", true],
  ["src/environment.ts", false],
  ["src/credentials/index.ts", false],
  ["/home/me/.docker/config.json", true],
  ["docker/config.json", false],
  ["/work/.env.d/notes.md", true],
  ["", false],
])("%s holds secrets: %s", (path, secret) => {
  expect(isSecretPath(path)).toBe(secret);
});

it("tells why a file is kept back, by its name or by what is in it", () => {
  expect(secretIn("/w/.env", "")).toBe("may hold secrets");
  expect(secretIn("/w/notes.txt", "see\n-----BEGIN OPENSSH PRIVATE KEY-----\n")).toBe("holds a private key");
  expect(secretIn("/w/pem.ts", 'const mark = "-----BEGIN PRIVATE KEY";')).toBeUndefined();
  expect(secretIn("/w/notes.txt", Buffer.from("nothing"))).toBeUndefined();
});

it("judges a file by the folders above it", () => {
  const verdict = judge(Rules.first().enter("", "dist/\n*.log\n", "!.env.example\n"));
  const of = (...paths: string[]): readonly string[] => paths.map(verdict);
  expect(of("dist/a/b.ts", "dist/a/c.ts", "a.log", ".ssh/config")).toEqual(["git", "git", "git", "secret"]);
  expect(of("src/a.ts", ".env.example", "src/dist")).toEqual(["", "", ""]);
});
