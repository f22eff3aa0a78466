// What Grafana's own schema says a dashboard is, with each panel's options and field settings by its type, which the schema
// leaves open. Nothing is let through that it does not name.
import type {
  AnnotationQuery, Dashboard, DataQuery, FieldConfig, FieldConfigSource, Panel, RowPanel, VariableModel,
} from "@grafana/schema";
import type { Options as BarGauge } from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type { Options as Heatmap } from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type { Options as Stat } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { FieldConfig as TableField, Options as Table } from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type { FieldConfig as TimeSeriesField, Options as TimeSeries } from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// A text enum as JSON has it: its values. Numbers are their own.
type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

type Source = { type: "prometheus"; uid: "${datasource}" };

// Prometheus' queries are not in the package.
type Query = Omit<DataQuery, "datasource"> & {
  datasource: Source;
  expr: string;
  legendFormat: string;
  range: boolean;
  instant: boolean;
  format?: "table" | "heatmap" | "time_series";
};

// As the schema has them, but with a unit, a description and a place that must be there, and no custom setting that is not named.
type Field<C> = Json<Omit<FieldConfig, "custom">> & { unit: string; custom?: Json<C> };
type Of<Type extends string, Options, Custom> =
  & Json<Omit<Panel, "type" | "options" | "fieldConfig" | "targets" | "datasource">>
  & Required<Pick<Panel, "id" | "title" | "description" | "gridPos">>
  & {
    type: Type;
    options: Json<Options>;
    fieldConfig: { defaults: Field<Custom>; overrides: FieldConfigSource["overrides"] };
    targets: Query[];
    datasource: Source;
  };

type AnyPanel =
  | Of<"timeseries", TimeSeries, TimeSeriesField>
  | Of<"stat", Stat, never>
  | Of<"bargauge", BarGauge, never>
  | Of<"heatmap", Heatmap, never>
  | Of<"table", Table, Partial<TableField>>
  | Json<RowPanel>;

export type PollwatchDashboard = Json<Omit<Dashboard, "panels" | "templating" | "annotations">> & {
  panels: AnyPanel[];
  templating: { list: Json<VariableModel & { definition?: string }>[] };
  annotations: { list: (Json<AnnotationQuery> & { expr: string; step: string; titleFormat: string; textFormat: string })[] };
};
