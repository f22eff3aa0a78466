//! The live page: one document with its style and script inline, assembled at compile time, and a
//! policy that allows it nothing but requests to its own server. After a change of the page,
//! `POLLWATCH_BLESS=1 cargo test --lib export::page` updates the policy.

/// The content of the style element, whose hash is in the policy.
macro_rules! style {
    () => {
        concat!("\n", include_str!("page.css"))
    };
}

/// The content of the script element, whose hash is in the policy. It is one function, so that it
/// defines nothing in the window.
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
            include_str!("script/threads.js"),
            include_str!("script/main.js"),
            "})();\n"
        )
    };
}

/// The document. All links are relative, so that it may be served below any path.
pub(super) const HTML: &str = concat!(
    include_str!("head.html"),
    "<style>",
    style!(),
    "</style>\n</head>\n",
    include_str!("body.html"),
    "<script>",
    script!(),
    "</script>\n</body>\n</html>\n"
);

/// The header `Content-Security-Policy`: allows this style and this script by their hashes, and
/// requests to this server.
pub(super) const POLICY: &str = include_str!("policy.txt").trim_ascii_end();

#[cfg(all(test, not(pollwatch_loom)))]
mod tests {
    use super::*;
    use base64::Engine;
    use sha2::Digest;

    fn hash(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(text))
    }

    #[test]
    fn the_policy_has_the_hashes_of_the_page() {
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; \
             img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            hash(style!()),
            hash(script!()),
        );
        if std::env::var_os("POLLWATCH_BLESS").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/export/page/policy.txt");
            std::fs::write(path, format!("{policy}\n")).unwrap();
            return;
        }
        assert_eq!(POLICY, policy, "POLLWATCH_BLESS=1 updates it");
    }

    #[test]
    fn the_page_is_one_document() {
        assert!(HTML.len() < 110_000, "{} bytes", HTML.len());
        for (tag, times) in [("<style>", 1), ("</style>", 1), ("<script>", 1), ("</script>", 1), ("<!doctype html>", 1)]
        {
            assert_eq!(HTML.matches(tag).count(), times, "{tag}");
        }
        for external in
            ["src=\"", "//cdn", "@import", "url(", "innerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            assert!(!HTML.contains(external), "{external}");
        }
        let links: Vec<_> = HTML.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert!(
            !links.is_empty() && links.iter().all(|link| !link.starts_with('/') && !link.contains("//")),
            "{links:?}"
        );
    }
}
