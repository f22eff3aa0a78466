// Writes the dashboard as a TypeScript literal: TypeScript checks a literal to its last name and value, but of an imported JSON
// file it knows of each text only that it is one.
import { readFileSync, writeFileSync } from "node:fs";

const dashboard = readFileSync(process.argv[2] ?? new URL("../pollwatch.json", import.meta.url), "utf8");
writeFileSync(
  new URL("dashboard.gen.ts", import.meta.url),
  `import type { PollwatchDashboard } from "./shape";\n\nexport const dashboard: PollwatchDashboard = ${dashboard.trim()};\n`,
);
