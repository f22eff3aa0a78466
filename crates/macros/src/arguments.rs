//! The arguments of the attributes.

use std::net::SocketAddr;
use std::time::Duration;

use proc_macro2::Span;
use syn::parse::ParseStream;
use syn::{Expr, ExprLit, Ident, Lit, LitStr, Path, Token, ext::IdentExt};

use crate::duration::parse_duration;
use crate::threshold_text;

/// The thresholds that `pollwatch::WatchdogBuilder::THRESHOLDS` has, too.
const THRESHOLDS: std::ops::RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_secs(3600);

/// The attribute that the arguments are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    Main,
    Test,
}

impl Attribute {
    fn name(self) -> &'static str {
        match self {
            Attribute::Main => "pollwatch::main",
            Attribute::Test => "pollwatch::test",
        }
    }

    /// Returns the names of the arguments.
    fn arguments(self) -> &'static [&'static str] {
        let all =
            &["listen", "threshold", "name", "flavor", "worker_threads", "start_paused", "unhandled_panic", "crate"];
        match self {
            Attribute::Main => all,
            Attribute::Test => &all[1..],
        }
    }

    /// Returns the names of the arguments as a list in a message.
    fn list(self) -> String {
        let names: Vec<String> = self.arguments().iter().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    }
}

/// The flavors of tokio's runtimes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavor {
    MultiThread,
    CurrentThread,
    Local,
}

/// The values of tokio's `UnhandledPanic`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PanicResponse {
    Ignore,
    ShutdownRuntime,
}

/// An argument's value, and where it was written.
pub(crate) struct Argument<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// The arguments, as far as they were given.
#[derive(Default)]
pub(crate) struct Arguments {
    pub(crate) threshold: Option<Argument<Duration>>,
    pub(crate) listen: Option<Argument<SocketAddr>>,
    pub(crate) name: Option<Argument<String>>,
    pub(crate) flavor: Option<Argument<Flavor>>,
    pub(crate) worker_threads: Option<Argument<usize>>,
    pub(crate) start_paused: Option<Argument<bool>>,
    pub(crate) unhandled_panic: Option<Argument<PanicResponse>>,
    pub(crate) krate: Option<Argument<Path>>,
}

impl Arguments {
    /// Parses the arguments into `self`. After an error, `self` has those that are valid, so that
    /// the function can be expanded nevertheless. The arguments after a syntax error are not read.
    pub(crate) fn parse(&mut self, input: ParseStream<'_>, attribute: Attribute) -> syn::Result<()> {
        let mut errors = Vec::new();
        while !input.is_empty() {
            match self.parse_one(input, attribute) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => errors.push(error),
                Err(error) => {
                    errors.push(error);
                    break;
                }
            }
        }
        if errors.is_empty() {
            return self.remove_unfit(attribute);
        }
        let combined = errors.into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        });
        combined.map_or(Ok(()), Err)
    }

    /// Parses one argument and the comma after it. The inner error is of the value, and what
    /// follows can be parsed. The outer one is of the syntax.
    fn parse_one(&mut self, input: ParseStream<'_>, attribute: Attribute) -> syn::Result<syn::Result<()>> {
        let name = input.call(Ident::parse_any)?;
        check_name(&name, attribute)?;
        if !input.peek(Token![=]) {
            let message = format!("the argument `{name}` needs a value: `{name} = {}`", example(&name));
            return Err(syn::Error::new_spanned(&name, message));
        }
        input.parse::<Token![=]>()?;
        let value: Expr = input.parse()?;
        if !input.is_empty() {
            input.parse::<Token![,]>()?;
        }
        Ok(literal(value, &name).and_then(|lit| self.set(Value { lit, name })))
    }

    fn set(&mut self, value: Value) -> syn::Result<()> {
        match value.name.to_string().as_str() {
            "threshold" => value.set(&mut self.threshold, Value::threshold),
            "listen" => value.set(&mut self.listen, Value::address),
            "name" => value.set(&mut self.name, Value::runtime_name),
            "flavor" => value.set(&mut self.flavor, Value::flavor),
            "worker_threads" => value.set(&mut self.worker_threads, Value::worker_threads),
            "start_paused" => value.set(&mut self.start_paused, Value::boolean),
            "unhandled_panic" => value.set(&mut self.unhandled_panic, Value::panic_response),
            _ => value.set(&mut self.krate, Value::path),
        }
    }

    /// Returns the flavor, given or by default.
    pub(crate) fn flavor(&self, attribute: Attribute) -> Flavor {
        let default = match attribute {
            Attribute::Main => Flavor::MultiThread,
            Attribute::Test => Flavor::CurrentThread,
        };
        self.flavor.as_ref().map_or(default, |flavor| flavor.value)
    }

    /// Removes an argument that the flavor does not have, and returns an error for it.
    fn remove_unfit(&mut self, attribute: Attribute) -> syn::Result<()> {
        let is_multi_thread = self.flavor(attribute) == Flavor::MultiThread;
        let needs = |name: &str, span: Span, flavor: &str| {
            let macro_name = attribute.name();
            let message = format!("`{name}` needs another flavor: `#[{macro_name}(flavor = \"{flavor}\", ...)]`");
            Err(syn::Error::new(span, message))
        };
        if !is_multi_thread && let Some(workers) = self.worker_threads.take() {
            return needs("worker_threads", workers.span, "multi_thread");
        }
        if is_multi_thread && let Some(paused) = self.start_paused.take() {
            return needs("start_paused", paused.span, "current_thread");
        }
        if is_multi_thread && let Some(panic) = self.unhandled_panic.take() {
            return needs("unhandled_panic", panic.span, "current_thread");
        }
        Ok(())
    }
}

fn check_name(name: &Ident, attribute: Attribute) -> syn::Result<()> {
    let message = match name.to_string().as_str() {
        known if attribute.arguments().contains(&known) => return Ok(()),
        "multi_thread" | "threaded_scheduler" => "write `flavor = \"multi_thread\"`".to_owned(),
        "current_thread" | "single_thread" | "basic_scheduler" => "write `flavor = \"current_thread\"`".to_owned(),
        "core_threads" => "write `worker_threads`".to_owned(),
        "listen" => "a test has no server: `listen` is an argument of `#[pollwatch::main]`".to_owned(),
        other => format!("unknown argument `{other}`: {} has {}", attribute.name(), attribute.list()),
    };
    Err(syn::Error::new_spanned(name, message))
}

/// Returns a value that the argument may have.
fn example(name: &Ident) -> &'static str {
    match name.to_string().as_str() {
        "threshold" => "\"10ms\"",
        "listen" => "\"127.0.0.1:9464\"",
        "name" => "\"main\"",
        "flavor" => "\"multi_thread\"",
        "worker_threads" => "4",
        "start_paused" => "true",
        "unhandled_panic" => "\"shutdown_runtime\"",
        _ => "\"pollwatch\"",
    }
}

fn literal(mut value: Expr, name: &Ident) -> syn::Result<Lit> {
    // A fragment of `macro_rules!`, such as `$workers:literal`, is in a group without delimiters.
    while let Expr::Group(group) = value {
        value = *group.expr;
    }
    match value {
        Expr::Lit(ExprLit { lit, .. }) => Ok(lit),
        other => {
            let message = format!("the value of `{name}` must be a literal, such as {}", example(name));
            Err(syn::Error::new_spanned(other, message))
        }
    }
}

/// A literal with the name of its argument.
struct Value {
    name: Ident,
    lit: Lit,
}

impl Value {
    fn set<T>(self, target: &mut Option<Argument<T>>, parse: fn(&Value) -> syn::Result<T>) -> syn::Result<()> {
        if target.is_some() {
            return Err(syn::Error::new_spanned(&self.name, format!("the argument `{}` is given twice", self.name)));
        }
        *target = Some(Argument { value: parse(&self)?, span: self.lit.span() });
        Ok(())
    }

    fn error<T>(&self, message: &str) -> syn::Result<T> {
        Err(syn::Error::new_spanned(&self.lit, format!("`{}`: {message}", self.name)))
    }

    fn text(&self) -> syn::Result<&LitStr> {
        match &self.lit {
            Lit::Str(text) => Ok(text),
            _ => self.error(&format!("a string is expected, such as {}", example(&self.name))),
        }
    }

    fn threshold(&self) -> syn::Result<Duration> {
        match parse_duration(&self.text()?.value()) {
            Ok(threshold) if THRESHOLDS.contains(&threshold) => Ok(threshold),
            Ok(threshold) => self.error(&threshold_text::out_of_range(threshold, &THRESHOLDS)),
            Err(message) => self.error(message),
        }
    }

    fn address(&self) -> syn::Result<SocketAddr> {
        let address = self.text()?.value().parse();
        address.or_else(|_| self.error("write an IP address and a port, such as 127.0.0.1:9464"))
    }

    fn runtime_name(&self) -> syn::Result<String> {
        match self.text()?.value() {
            name if name.trim().is_empty() => self.error("the name of a runtime must not be empty"),
            name => Ok(name),
        }
    }

    fn flavor(&self) -> syn::Result<Flavor> {
        match self.text()?.value().as_str() {
            "multi_thread" => Ok(Flavor::MultiThread),
            "current_thread" => Ok(Flavor::CurrentThread),
            "local" => Ok(Flavor::Local),
            _ => self.error("the flavors are \"multi_thread\", \"current_thread\" and \"local\""),
        }
    }

    fn worker_threads(&self) -> syn::Result<usize> {
        match &self.lit {
            Lit::Int(number) => match number.base10_parse() {
                Ok(0) => self.error("at least one worker is needed"),
                Ok(number) => Ok(number),
                Err(_) => self.error("a number of threads is expected, such as 4"),
            },
            _ => self.error("a number of threads is expected, such as 4"),
        }
    }

    fn boolean(&self) -> syn::Result<bool> {
        match &self.lit {
            Lit::Bool(value) => Ok(value.value),
            _ => self.error("`true` or `false` is expected"),
        }
    }

    fn panic_response(&self) -> syn::Result<PanicResponse> {
        match self.text()?.value().as_str() {
            "ignore" => Ok(PanicResponse::Ignore),
            "shutdown_runtime" => Ok(PanicResponse::ShutdownRuntime),
            _ => self.error("the values are \"ignore\" and \"shutdown_runtime\""),
        }
    }

    fn path(&self) -> syn::Result<Path> {
        let path = self.text()?.parse::<Path>();
        path.or_else(|_| self.error("the path of a crate is expected, such as \"pollwatch\""))
    }
}
