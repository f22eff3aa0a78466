// The type of a dashboard by Grafana's own schema. In addition, each panel's options and field settings have the types of its
// panel kind, which the schema leaves open. Names that these types do not have are errors.
import type {
  AnnotationQuery, Dashboard, DataQuery, FieldConfig, FieldConfigSource, Panel, RowPanel, VariableModel,
} from "@grafana/schema";
import type { Options as BarGauge } from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen";
import type { Options as Heatmap } from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type { Options as Stat } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type { FieldConfig as TableField, Options as Table } from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type { FieldConfig as TimeSeriesField, Options as TimeSeries } from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// The JSON form of a type: a string enum becomes its values.
type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

type Source = { type: "prometheus"; uid: "${datasource}" };

// The type of Prometheus' queries, which the package does not contain.
type Query = Omit<DataQuery, "datasource"> & {
  datasource: Source;
  expr: string;
  legendFormat: string;
  range: boolean;
  instant: boolean;
  format?: "table" | "heatmap" | "time_series";
};

// The schema's types, but unit, description and position are required, and custom settings must be known.
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
