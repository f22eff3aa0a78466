//! The live page: one document with its style and script in it, put together by the compiler, and a policy that lets it do nothing
//! but ask its own server. `POLLWATCH_BLESS=1 cargo test --lib export::page` writes that policy anew after a change.

/// Between the marks of its element: what the policy's hash is of.
macro_rules! style {
    () => {
        concat!("\n", include_str!("page.css"))
    };
}

/// As [`style`]. One scope for all of it: nothing of it is the window's.
macro_rules! script {
    () => {
        concat!(
            "\n(() => {\n'use strict';\n",
            include_str!("script/dom.js"),
            include_str!("script/format.js"),
            include_str!("script/history.js"),
            include_str!("script/connection.js"),
            include_str!("script/now.js"),
            include_str!("script/worst.js"),
            include_str!("script/stalls.js"),
            include_str!("script/flame.js"),
            include_str!("script/tables.js"),
            include_str!("script/heat.js"),
            include_str!("script/health.js"),
            include_str!("script/main.js"),
            "})();\n"
        )
    };
}

/// The document. All that it refers to is relative: it may be served below any path.
pub(crate) const HTML: &str = concat!(
    include_str!("head.html"),
    "<style>",
    style!(),
    "</style>\n</head>\n",
    include_str!("body.html"),
    "<script>",
    script!(),
    "</script>\n</body>\n</html>\n"
);

/// The header `Content-Security-Policy`: this style and this script, by their hashes, and what this server answers.
pub(crate) const POLICY: &str = include_str!("policy.txt").trim_ascii_end();

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use base64::Engine;
    use sha2::Digest;

    fn hash(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(text))
    }

    #[test]
    fn the_policy_names_what_is_in_the_page() {
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            hash(style!()),
            hash(script!()),
        );
        if std::env::var_os("POLLWATCH_BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/export/page/policy.txt");
            std::fs::write(path, format!("{policy}\n")).unwrap();
            return;
        }
        assert_eq!(POLICY, policy, "POLLWATCH_BLESS=1 writes it anew");
    }

    #[test]
    fn it_is_one_document() {
        assert!(HTML.len() < 100_000, "{} bytes", HTML.len());
        for (mark, times) in
            [("<style>", 1), ("</style>", 1), ("<script>", 1), ("</script>", 1), ("<!doctype html>", 1)]
        {
            assert_eq!(HTML.matches(mark).count(), times, "{mark}");
        }
        for outside in
            ["src=\"", "//cdn", "@import", "url(", "innerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            assert!(!HTML.contains(outside), "{outside}");
        }
        let links: Vec<_> = HTML.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(
            !links.is_empty() && links.iter().all(|link| !link.starts_with('/') && !link.contains("//")),
            "{links:?}"
        );
    }
}
