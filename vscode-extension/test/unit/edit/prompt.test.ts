import { describe, expect, it } from "vitest";
import { buildPrompt, isAboutIndent, type Part, type PromptOptions, tokens } from "../../../src/features/edit/prompt";

const PART: Part = {
  path: "src/a.py",
  language: "python",
  before: ["import a", ""],
  selected: ["x = 1"],
  after: ["y = 2"],
  whole: false,
};

const BASE: PromptOptions = {
  part: PART,
  instruction: "make it 10",
  turns: [],
  instructions: "",
  maxLength: 8192,
  maxAnswer: 4096,
  thinks: false,
};

function built(change: Partial<PromptOptions> = {}) {
  const prompt = buildPrompt({ ...BASE, ...change });
  if (!prompt.fits) throw new Error(prompt.why);
  return { ...prompt, texts: prompt.messages.map((message) => String(message.content)) };
}

const many = (count: number, text = "line") => Array.from({ length: count }, (_, at) => `${text} ${at}`);

describe("the prompt", () => {
  it("has the rules first, then the file with the part between marks, the instruction last", () => {
    const { messages, texts } = built();
    expect(messages.map((message) => message.role)).toEqual(["system", "user"]);
    expect(texts[0]).toContain("code only");
    expect(texts[1]).toBe(
      "File: src/a.py (python)\n\nimport a\n\n<edit_this>\nx = 1\n</edit_this>\ny = 2\n\n" +
        "The marked part is between <edit_this> and </edit_this>.\nInstruction: make it 10",
    );
  });

  it("has the user's own instructions with the rules", () => {
    expect(built({ instructions: " Use tabs. " }).texts[0]).toMatch(/own instructions:\nUse tabs\.$/);
    expect(built().texts[0]).not.toContain("own instructions");
  });

  it("begins the same for two instructions, and for two selections near each other", () => {
    const [one, other] = [built().texts, built({ instruction: "remove it" }).texts];
    expect(one[0]).toBe(other[0]);
    expect(one[1]?.replace("make it 10", "")).toBe(other[1]?.replace("remove it", ""));
    const lines = many(1000);
    const at = (line: number) => ({ ...PART, before: lines.slice(0, line), selected: [lines[line] ?? ""] });
    const [near, far] = [built({ part: at(500) }).texts[1] ?? "", built({ part: at(510) }).texts[1] ?? ""];
    expect(near.slice(0, near.indexOf("<edit_this>"))).toBe(far.slice(0, near.indexOf("<edit_this>")));
  });

  it("uses marks that the text does not have", () => {
    const part = { ...PART, after: ["</edit_this>", "<edit_this_2>"] };
    expect(built({ part }).markers).toEqual(["<edit_this_3>", "</edit_this_3>"]);
  });

  it("takes what stands around only as far as there is room, the nearest first", () => {
    const part = { ...PART, before: many(2000, "before"), after: many(2000, "after") };
    const wide = built({ part, maxLength: 32768 }).texts[1] ?? "";
    expect(wide).toContain("before 1999\n<edit_this>");
    expect(wide).toContain("</edit_this>\nafter 0\n");
    expect(wide).not.toContain("before 1700\n");
    expect(wide).not.toContain("after 96\n");
    const narrow = built({ part, maxLength: 1200 });
    expect(narrow.texts[1]?.length).toBeLessThan(2000);
    expect(narrow.texts[1]).toContain("x = 1");
    expect(narrow.texts.reduce((sum, text) => sum + tokens(text), 0) + narrow.maxTokens).toBeLessThanOrEqual(1200);
  });

  it("always fits the model, prompt and answer together", () => {
    for (let maxLength = 700; maxLength < 20000; maxLength += 371) {
      for (const count of [1, 30, 300]) {
        const part = { ...PART, before: many(300), selected: many(count), after: many(300) };
        const prompt = buildPrompt({ ...BASE, part, maxLength });
        if (!prompt.fits) continue;
        const size = prompt.messages.reduce((sum, message) => sum + tokens(String(message.content)), 0);
        expect(size + prompt.maxTokens).toBeLessThanOrEqual(maxLength);
        expect(prompt.maxTokens).toBeGreaterThanOrEqual(tokens(part.selected.join("\n")));
      }
    }
  });

  it("bounds the answer by the part's size and by the setting; a model that thinks gets all of it", () => {
    expect(built().maxTokens).toBe(tokens("x = 1") * 2 + 512);
    expect(built({ maxAnswer: 100 }).maxTokens).toBe(100);
    expect(built({ thinks: true }).maxTokens).toBe(4096);
  });

  it("refuses what cannot be answered, and says what to do", () => {
    const part = { ...PART, selected: many(2000), whole: true };
    const long = buildPrompt({ ...BASE, part });
    expect(long).toMatchObject({ fits: false, fix: expect.stringContaining("aicockpit.chat.maxTokens") });
    const model = buildPrompt({ ...BASE, part, maxAnswer: 100_000 });
    expect(model).toMatchObject({
      fits: false,
      why: expect.stringMatching(
        /^This file has about \d+ tokens; with the answer that is more than the model's 8192\.$/,
      ),
      fix: "Select the part to change.",
    });
    const unknown = buildPrompt({ ...BASE, part, maxAnswer: 100_000, maxLength: undefined });
    expect(unknown.fits).toBe(true);
  });
});

describe("a follow-up", () => {
  const turn = { instruction: "make it 10", answer: ["x = 10"], unfinished: false };

  it("adds the earlier answer and the new instruction behind what was sent before", () => {
    const { messages, texts } = built({ turns: [turn], instruction: "make it 11", current: ["x = 10"] });
    expect(messages.slice(0, 2)).toEqual(built().messages);
    expect(texts[2]).toBe("```\nx = 10\n```");
    expect(texts[3]).toBe("Instruction: make it 11\nAnswer with the complete new version again.");
  });

  it("tells the text as it stands when it is no longer the answer", () => {
    const { texts } = built({ turns: [turn], instruction: "make it 11", current: ["x = 9"] });
    expect(texts[3]).toContain("The marked part is now:\n<edit_this>\nx = 9\n</edit_this>\nInstruction: make it 11");
  });

  it("has each instruction before its answer", () => {
    const turns = [turn, { ...turn, instruction: "make it 11", answer: ["x = 11"] }];
    const { texts } = built({ turns, instruction: "make it 12", current: ["x = 11"] });
    expect(texts.map((text) => /Instruction: (.*)/.exec(text)?.[1])).toEqual([
      undefined,
      "make it 10",
      undefined,
      "make it 11",
      undefined,
      "make it 12",
    ]);
  });
});

describe("tokens and indentation", () => {
  it("counts rather too many", () => {
    expect(tokens("abcdef")).toBe(2);
    expect(tokens("日本語")).toBe(3);
  });

  it("knows an instruction about indentation", () => {
    expect(["dedent this", "Indent by 4", "use tabs, not spaces"].every(isAboutIndent)).toBe(true);
    expect(["add a table", "independent", "fix it"].some(isAboutIndent)).toBe(false);
  });
});
