#[pollwatch::main(listen = "127.0.0.1:9464")]
async fn main() {}
