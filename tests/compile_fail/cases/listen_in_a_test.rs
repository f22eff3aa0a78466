#[pollwatch::test(listen = "127.0.0.1:9464")]
async fn works() {}

fn main() {}
