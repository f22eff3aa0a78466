#[pollwatch::main(threshold)]
async fn main() {}
