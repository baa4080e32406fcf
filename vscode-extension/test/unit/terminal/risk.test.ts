import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { classify, dialectOf, headline } from "../../../src/features/terminal/risk";
import type { Dialect } from "../../../src/features/terminal/words";

interface Case {
  readonly dialect: Dialect;
  readonly level: string;
  readonly command: string;
  readonly reason: string;
}

const GOLDEN = join(import.meta.dirname, "../../golden/terminal/risk.txt");
const CASES = readCases(readFileSync(GOLDEN, "utf8"));

function readCases(text: string): readonly Case[] {
  let dialect: Dialect = "posix";
  const cases: Case[] = [];
  for (const line of text.split("\n")) {
    const section = /^== (\w+) ==$/.exec(line)?.[1];
    if (section !== undefined) dialect = section as Dialect;
    else if (line !== "" && !line.startsWith("# ")) {
      const [level = "", command = "", reason = ""] = line.split("\t");
      cases.push({ dialect, level, command: unescaped(command), reason });
    }
  }
  return cases;
}

function unescaped(text: string): string {
  return text.replace(/\\(?:u\{([0-9a-f]+)\}|(.))/g, (_, hex: string | undefined, one: string | undefined) => {
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
    return { n: "\n", t: "\t", e: "\u001b" }[one ?? ""] ?? one ?? "";
  });
}

describe("the class of a command", () => {
  it("has many golden cases", () => {
    expect(CASES.length).toBeGreaterThan(250);
  });

  it.each(CASES.map((one) => [`${one.dialect}: ${one.level}: ${one.command}`, one] as const))("%s", (_, one) => {
    const risk = classify(one.command, one.dialect);
    const said = risk.findings.map((finding) => `${finding.level}: ${finding.reason} [${finding.part}]`).join("\n");
    expect(risk.level, said).toBe(one.level);
    if (one.reason === "") expect(risk.findings).toEqual([]);
    else expect(reasonsOf(risk)).toContain(one.reason);
  });
});

function reasonsOf(risk: ReturnType<typeof classify>): string {
  return risk.findings
    .filter((finding) => finding.level === risk.level)
    .map((finding) => finding.reason)
    .join("\n");
}

describe("classify", () => {
  it("names the part of the line that a reason is about", () => {
    expect(classify("ls && rm -rf build && make").findings[0]).toEqual({
      level: "dangerous",
      reason: "deletes folders with all that is in them",
      part: "rm -rf build",
    });
  });

  it("shows hidden characters in the part", () => {
    expect(classify("rm -rf a\u202eb").findings.map((finding) => finding.part)).toContain("rm -rf a⟦U+202E⟧b");
  });

  it("calls nothing safe that it does not know", () => {
    for (const unknown of ["foo", "./ls2", "lss", "xls", "lsx -la", "gti status", "/opt/x/tool", "$HOME/bin/thing"]) {
      expect(classify(unknown).level, unknown).not.toBe("safe");
    }
  });

  it("says nothing of an empty line", () => {
    expect(classify("  ")).toEqual({ level: "safe", findings: [] });
  });

  it("gives up on what is too long, and says so", () => {
    expect(classify("a".repeat(20_001)).findings[0]?.reason).toBe("is too long to be judged");
  });

  it("keeps the worst of many reasons", () => {
    const line = `${Array.from({ length: 200 }, (_, at) => `tool${at}`).join("; ")}; rm -rf x`;
    const risk = classify(line);
    expect(risk.findings.length).toBeLessThanOrEqual(12);
    expect(risk.findings[0]?.reason).toContain("deletes folders");
  });

  it("tells the shells apart", () => {
    expect(dialectOf("C:\\Program Files\\PowerShell\\7\\pwsh.exe")).toBe("powershell");
    expect(dialectOf("C:\\Windows\\System32\\cmd.exe")).toBe("cmd");
    expect(dialectOf("/usr/bin/zsh")).toBe("posix");
    expect(dialectOf("")).toBe("posix");
  });
});

describe("headline", () => {
  it("is one line for each class", () => {
    expect(headline(classify("ls"))).toBe("Safe: it only reads.");
    expect(headline(classify("touch a"))).toBe("Changes something: it makes files or folders: touch a");
    expect(headline(classify("sudo rm -rf x"))).toBe(
      "Dangerous: it runs as the administrator: sudo rm -rf x (and 1 more)",
    );
  });
});
