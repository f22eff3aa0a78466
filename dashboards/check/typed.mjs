// Writes the dashboard as a TypeScript literal. TypeScript checks every name and value of a literal, but widens the strings of
// an imported JSON file to `string`.
import { readFileSync, writeFileSync } from "node:fs";

const dashboard = readFileSync(process.argv[2] ?? new URL("../pollwatch.json", import.meta.url), "utf8");
writeFileSync(
  new URL("dashboard.gen.ts", import.meta.url),
  `import type { PollwatchDashboard } from "./shape";\n\nexport const dashboard: PollwatchDashboard = ${dashboard.trim()};\n`,
);
