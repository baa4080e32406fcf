import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/unit/**/*.test.ts", "test/webview/**/*.test.ts"],
    testTimeout: 10_000,
    coverage: {
      provider: "v8",
      include: ["src/api/**", "src/context/**", "src/features/**", "src/webview/**"],
      reporter: ["text-summary"],
      thresholds: { lines: 90 },
    },
  },
});
