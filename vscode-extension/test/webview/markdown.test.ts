// @vitest-environment happy-dom
import { describe, expect, it } from "vitest";
import { Markdown } from "../../src/webview/chat/markdown";

const PIECES = [
  "# Title\n\nA paragraph with `code`, **bold**, *em* and ~~gone~~.\nSecond line.\n\n",
  "- one\n- two\n  - nested\n    - deeper\n\n      with a paragraph\n- three\n\n",
  "1. first\n2. second\n\n   ```ts\n   const a = 1;\n   ```\n\n3. third\n\n",
  '```python\ndef f(x):\n    return "<b>" + x\n```\n',
  "```\nno language\n",
  "~~~sh\necho hi\n~~~\n\n",
  "````md\n```js\ninner\n```\n````\n\n",
  "| a | b |\n|---|--:|\n| 1 | 2 |\n| 3 | 4 |\n\n",
  "> quoted\n> more\nlazy\n\n> ```go\n> func main() {}\n> ```\n\n",
  "Setext\n======\n\nText\n---\n\n***\n\n",
  "    indented code\n\n    more of it\n\n",
  "See [docs][1] and [x](src/a.ts#L3) and https://example.org/a?b=c.\n\n",
  "[1]: https://example.org/one 'Title'\n\n",
  "- [ ] to do\n- [x] done\n\n",
  "<script>alert(1)</script>\n<img src=x onerror=alert(1)>\n\n",
  "line one\r\nline two\r\n\r\n",
  "alone\r\r- mac\r- ends\r\r",
  "para\n-\n- item\n+ other\n\n",
  "![picture](https://example.org/p.png) ![d](data:image/png;base64,AAAA)\n\n",
  "`src/a.ts:12` and `a b`  \nhard break\\\nagain\n\n",
  "\n\n\n",
  "- x\n- y\n\n  - z\n\n    ```ts\n    let z;\n    ```\n- w\n\n\n- v\n* other\n* list\n\n",
  "3) a\n4) b\n   > quote\n5) c\n1. new\n",
  "a | b\n--|--\nx | y",
];

/** A small generator of numbers that is the same in each run. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function atOnce(text: string): HTMLElement {
  const markdown = new Markdown();
  markdown.update(text, true);
  return markdown.element;
}

function streamed(text: string, cut: () => number): HTMLElement {
  const markdown = new Markdown();
  for (let end = cut(); end < text.length; end += cut()) markdown.update(text.slice(0, end), false);
  markdown.update(text, false);
  markdown.update(text, true);
  return markdown.element;
}

describe("streaming", () => {
  it("gives the same elements in whatever pieces the text came", () => {
    for (let seed = 1; seed <= 120; seed++) {
      const next = random(seed);
      const count = 1 + Math.floor(next() * 8);
      const text = Array.from({ length: count }, () => PIECES[Math.floor(next() * PIECES.length)] ?? "").join("");
      const size = 1 + Math.floor(next() * (seed % 3 === 0 ? 80 : 7));
      const pieces = streamed(text, () => 1 + Math.floor(next() * size));
      expect(pieces.innerHTML, `seed ${seed}: ${JSON.stringify(text)}`).toBe(atOnce(text).innerHTML);
    }
  });

  it("gives the same elements for each piece, one character at a time", () => {
    for (const piece of PIECES) {
      const text = `before\n\n${piece}after`;
      expect(streamed(text, () => 1).innerHTML, text).toBe(atOnce(text).innerHTML);
    }
  });

  it("leaves finished blocks alone, so that a selection in them stays", () => {
    const markdown = new Markdown();
    markdown.update("# Head\n\nfirst paragraph\n\nsec", false);
    const [head, first] = markdown.element.children;
    markdown.update("# Head\n\nfirst paragraph\n\nsecond\n\n- a list\n", false);
    expect(markdown.element.children[0]).toBe(head);
    expect(markdown.element.children[1]).toBe(first);
    expect(markdown.element.children).toHaveLength(4);
  });

  it("keeps the text node of the paragraph that grows", () => {
    const markdown = new Markdown();
    markdown.update("some wor", false);
    const text = markdown.element.firstChild?.firstChild;
    markdown.update("some words here", false);
    expect(markdown.element.firstChild?.firstChild).toBe(text);
    expect(text?.textContent).toBe("some words here");
  });

  it("appends to an open code block, and shows no half fence", () => {
    let now = 0;
    const markdown = new Markdown(() => now);
    markdown.update("```ts\nconst a", false);
    const code = markdown.element.querySelector("code");
    markdown.update("```ts\nconst a = 1;\n``", false);
    expect(markdown.element.querySelector("code")).toBe(code);
    expect(code?.textContent).toBe("const a = 1;\n");
    now = 1_000;
    markdown.update("```ts\nconst a = 1;\n``;\nlet b;\n", false);
    expect(markdown.element.querySelector("code")).toBe(code);
    expect([...(code?.querySelectorAll(".hljs-keyword") ?? [])].map((word) => word.textContent)).toContain("const");
    expect(code?.textContent).toBe("const a = 1;\n``;\nlet b;\n");
    markdown.update("```ts\nconst a = 1;\n``;\nlet b;\n```\nend", true);
    expect(markdown.element.lastElementChild?.textContent).toBe("end");
  });

  it("shows a long open block without colours, and colours it at the end", () => {
    const long = `\`\`\`ts\n${"const a = 1;\n".repeat(600)}`;
    const markdown = new Markdown(() => 0);
    markdown.update(long, false);
    expect(markdown.element.querySelector("code span")).toBeNull();
    markdown.update(long, true);
    expect(markdown.element.querySelectorAll(".hljs-keyword")).toHaveLength(600);
  });

  it("leaves the items of a growing list alone but the last, and draws them anew when the list becomes loose", () => {
    const markdown = new Markdown();
    markdown.update("- a\n- `b`\n\n  ```ts\n  let b;\n  ```\n- c\n- d", false);
    const items = [...markdown.element.querySelectorAll("li")];
    const code = items[1]?.querySelector("pre");
    markdown.update("- a\n- `b`\n\n  ```ts\n  let b;\n  ```\n- c\n- d and more\n- e\n\n  ```js\n  x\n  ```", false);
    expect([...markdown.element.querySelectorAll("li")].slice(0, 4)).toEqual(items);
    expect(items[1]?.querySelector("pre")).toBe(code);
    expect([...markdown.element.querySelectorAll<HTMLElement>(".code")].map((block) => block.dataset.block)).toEqual([
      "0",
      "1",
    ]);
    const tight = new Markdown();
    tight.update("- a\n- b\n- c", false);
    expect(tight.element.querySelector("p")).toBeNull();
    tight.update("- a\n- b\n- c\n\n- d", false);
    expect(tight.element.querySelectorAll("li > p")).toHaveLength(4);
  });

  it("starts anew when the text is another", () => {
    const markdown = new Markdown();
    markdown.update("one\n\ntwo", true);
    markdown.update("three", false);
    expect(markdown.element.textContent).toBe("three");
  });

  it("gives definitions at the end to the links above", () => {
    const element = streamed("see [it]\n\nmore\n\n[it]: https://example.org/\n", () => 3);
    expect(element.querySelector("a")?.getAttribute("data-href")).toBe("https://example.org/");
  });

  it("draws only what is open: a long answer costs about the same per piece at its end as at its start", () => {
    const markdown = new Markdown();
    let text = "";
    for (let number = 0; number < 300; number++) {
      text += `Paragraph ${number} with some words.\n\n`;
      markdown.update(text, false);
    }
    const first = markdown.element.children[0];
    const mutations: Node[] = [];
    const insert = markdown.element.appendChild.bind(markdown.element);
    markdown.element.appendChild = <T extends Node>(node: T): T => {
      mutations.push(node);
      return insert(node);
    };
    markdown.update(`${text}one more`, false);
    expect(mutations).toHaveLength(1);
    expect(markdown.element.children[0]).toBe(first);
  });
});

describe("hostile text", () => {
  const elements = (text: string) => atOnce(text);

  it("never becomes markup", () => {
    const element = elements(
      '<script>alert(1)</script>\n\n<img src=x onerror="alert(1)">\n\n```html\n<iframe src=x></iframe>\n```',
    );
    expect(element.querySelector("script, img, iframe")).toBeNull();
    expect(element.textContent).toContain("<script>alert(1)</script>");
    expect(element.textContent).toContain("<iframe src=x></iframe>");
  });

  it("links nowhere but to the web and to files", () => {
    const bad = [
      "javascript:alert(1)",
      "JaVaScRiPt:alert(1)",
      "javascript&#58;alert(1)",
      "java\tscript:x",
      "data:text/html,x",
      "vscode:x",
      "command:x",
      "file:///etc/passwd",
      "//evil.example",
      "%2F%2Fevil.example",
      "javascript%3Aalert(1)",
    ];
    for (const target of bad) {
      for (const text of [
        `[click](${target})`,
        `[click](<${target}>)`,
        `<${target}>`,
        `[click]\n\n[click]: ${target}`,
      ]) {
        for (const link of elements(text).querySelectorAll("a")) {
          expect(link.getAttribute("data-href"), text).not.toMatch(/^\s*(javascript|data|vscode|command|file):|^\/\//i);
        }
      }
    }
  });

  it("has no href, no style, no handler on any element", () => {
    const all = elements(PIECES.filter((piece) => !piece.startsWith("```\n")).join("")).querySelectorAll("*");
    expect(all.length).toBeGreaterThan(100);
    for (const element of all) {
      for (const { name } of element.attributes) expect(name).not.toMatch(/^(href|src|style|on.*)$/);
    }
  });

  it("survives huge lines, deep nesting and unclosed fences", () => {
    const cases = [
      "x".repeat(300_000),
      `\`\`\`js\n${"a".repeat(20_000)}\n`,
      `${"> ".repeat(300)}deep`,
      `${"- ".repeat(300)}deep`,
      "*".repeat(5_000),
      "[".repeat(5_000),
      "`".repeat(5_000),
      `${"| a ".repeat(500)}|\n${"|---".repeat(500)}|\n`,
      "```\n```\n```",
    ];
    for (const text of cases) {
      const began = performance.now();
      expect(elements(text).textContent?.length).toBeGreaterThanOrEqual(0);
      expect(performance.now() - began, text.slice(0, 20)).toBeLessThan(4_000);
    }
    expect(elements(`\`\`\`js\n${"a".repeat(20_000)}\n`).querySelector("code span")).toBeNull();
  });

  it("gives links as data for the page to ask the extension", () => {
    const element = elements("[a](src/a%20b.ts#L3) https://example.org `lib/x.py:7` <https://e.org> main.py");
    const targets = [...element.querySelectorAll("[data-href]")].map((link) => link.getAttribute("data-href"));
    expect(targets).toEqual(["src/a b.ts#L3", "https://example.org", "lib/x.py:7", "https://e.org"]);
  });

  it("shows pictures as links, and never loads one", () => {
    const element = elements("![alt](https://example.org/p.png) ![gone](data:image/png;base64,AA)");
    expect(element.querySelector("a")?.textContent).toBe("alt");
    expect(element.querySelectorAll("a")).toHaveLength(1);
    expect(element.textContent).toContain("gone");
  });
});

describe("code blocks", () => {
  it("are numbered in their order, over closed and open ones and inside of lists", () => {
    const element = streamed(
      "```a\n1\n```\n\n- x\n\n  ```b\n  2\n  ```\n\n    \n\ntext\n\n    three\n\n```d\n4",
      () => 5,
    );
    const blocks = [...element.querySelectorAll<HTMLElement>(".code")];
    expect(blocks.map((block) => block.dataset.block)).toEqual(["0", "1", "2", "3"]);
    expect(blocks.map((block) => block.querySelector("code")?.textContent?.trim())).toEqual(["1", "2", "three", "4"]);
  });

  it("tell language and file, and offer the terminal for shells only", () => {
    const element = atOnce("```ts src/a.ts\nlet a\n```\n\n```bash\nls\n```\n\n```nonsense\nx\n```");
    const [first, second, third] = element.querySelectorAll<HTMLElement>(".code");
    expect(first?.querySelector(".code-name")?.textContent).toBe("TypeScript · src/a.ts");
    expect(first?.dataset.path).toBe("src/a.ts");
    expect(first?.querySelector("[data-action=runInTerminal]")).toBeNull();
    expect(second?.querySelector("[data-action=runInTerminal]")).not.toBeNull();
    expect(third?.querySelector(".code-name")?.textContent).toBe("nonsense");
    expect(third?.querySelector("code")?.textContent).toBe("x\n");
  });

  it("escape nothing twice", () => {
    const code = "const s = \"&lt;b&gt; & 'x' <i>\";\n";
    expect(atOnce(`\`\`\`js\n${code}\`\`\``).querySelector("code")?.textContent).toBe(code);
  });

  it("keeps lists' numbers, boxes and the table's alignment", () => {
    const element = atOnce("7. seven\n8. eight\n\n- [ ] open\n- [x] done\n\n| a | b |\n|:-:|--:|\n| 1 | 2 |\n");
    expect(element.querySelector("ol")?.getAttribute("start")).toBe("7");
    expect([...element.querySelectorAll("ul li")].map((item) => item.textContent)).toEqual(["☐ open", "☑ done"]);
    expect([...element.querySelectorAll("td")].map((cell) => cell.className)).toEqual(["align-center", "align-right"]);
  });
});
