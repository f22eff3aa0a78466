#[pollwatch::main(threshold = "10ms", worker_threads = 2, threshold = "20ms")]
async fn main() {}
