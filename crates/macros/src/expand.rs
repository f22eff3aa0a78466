//! The code that the attributes expand to. It builds tokio's builder, and calls `pollwatch` for the
//! rest.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::parse::{ParseStream, Parser};
use syn::{ReturnType, Type};

use crate::arguments::{Arguments, Attribute, Flavor, PanicResponse};
use crate::function::AsyncFunction;

pub(crate) fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(arguments, item, Attribute::Main)
}

pub(crate) fn test(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand(arguments, item, Attribute::Test)
}

/// Expands to the function, and to errors beside it: a function that exists keeps the tools of an
/// editor working, and is no further error where it is used.
fn expand(arguments: TokenStream, item: TokenStream, attribute: Attribute) -> TokenStream {
    let function: AsyncFunction = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => return [item, error.into_compile_error()].into_iter().collect(),
    };
    if let Err(error) = function.check(attribute == Attribute::Test) {
        return [function.without_body(), error.into_compile_error()].into_iter().collect();
    }
    let mut parsed = Arguments::default();
    let checked = (|input: ParseStream<'_>| parsed.parse(input, attribute)).parse2(arguments);
    let function = function_of(function, &parsed, attribute);
    match checked {
        Ok(()) => function,
        Err(error) => [function, error.into_compile_error()].into_iter().collect(),
    }
}

/// The variables of the expansion. Each has one span, because code that `macro_rules!` generates
/// has several hygiene contexts, and a variable of one is not visible in another.
struct Variables {
    builder: Ident,
    body: Ident,
}

impl Variables {
    fn new() -> Variables {
        let span = Span::call_site();
        Variables { builder: Ident::new("builder", span), body: Ident::new("body", span) }
    }
}

fn function_of(mut function: AsyncFunction, arguments: &Arguments, attribute: Attribute) -> TokenStream {
    let span = function.last_statement();
    let variables = Variables::new();
    let Variables { builder, body } = &variables;
    let krate = match &arguments.krate {
        Some(path) => {
            let path = &path.value;
            quote!(#path)
        }
        None => quote!(::pollwatch),
    };
    let make_builder = builder_statements(arguments, attribute, &krate, &variables);
    let settings = settings(arguments, attribute, &krate);
    // The site of the root is the name of the function. With any span of a macro's, it would be the
    // attribute.
    let site = function.signature.ident.span();
    let run = match arguments.flavor(attribute) {
        Flavor::Local => Ident::new("run_local", site),
        Flavor::MultiThread | Flavor::CurrentThread => Ident::new("run", site),
    };
    let statements = std::mem::take(&mut function.body);
    let check = check_of_type(&function.signature.output, &variables);
    let call = quote_spanned!(site=> .#run(#builder, #body));
    let make_body = quote! { let #body = async { #statements }; #check };
    let end = quote_spanned! {span=>
        #[allow(clippy::needless_return, clippy::diverging_sub_expression)]
        { return #settings #call; }
    };
    let attributes = match attribute {
        Attribute::Main => TokenStream::new(),
        Attribute::Test => quote!(#[::core::prelude::v1::test]),
    };
    function.with_body(attributes, quote! { #make_body #make_builder #end })
}

/// Returns a check that the body has the type of the function, which reports a mismatch at the
/// body. A type that cannot be named (`impl Trait`, `!`) is only checked by the return.
fn check_of_type(output: &ReturnType, variables: &Variables) -> TokenStream {
    let body = &variables.body;
    let output = match output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, output) if is_unnameable(output) => return TokenStream::new(),
        ReturnType::Type(_, output) => quote!(#output),
    };
    quote! {
        if false {
            let _: &dyn ::core::future::Future<Output = #output> = &#body;
        }
    }
}

fn is_unnameable(output: &Type) -> bool {
    matches!(output, Type::Never(_)) || has_impl(quote!(#output))
}

/// Returns whether the tokens of a type have the keyword `impl`.
fn has_impl(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        proc_macro2::TokenTree::Ident(ident) => ident == "impl",
        proc_macro2::TokenTree::Group(group) => has_impl(group.stream()),
        _ => false,
    })
}

/// Returns the statements that make tokio's builder. They are in the user's crate, where tokio has
/// the features that the arguments need.
fn builder_statements(
    arguments: &Arguments,
    attribute: Attribute,
    krate: &TokenStream,
    variables: &Variables,
) -> TokenStream {
    let builder = &variables.builder;
    let runtime = quote!(#krate::__private::tokio::runtime);
    let new = match arguments.flavor(attribute) {
        Flavor::MultiThread => quote!(new_multi_thread),
        Flavor::CurrentThread | Flavor::Local => quote!(new_current_thread),
    };
    let mut code = quote! {
        let mut #builder = #runtime::Builder::#new();
        #builder.enable_all();
    };
    if let Some(workers) = &arguments.worker_threads {
        let value = workers.value;
        code.extend(quote_spanned!(workers.span=> #builder.worker_threads(#value);));
    }
    if let Some(paused) = &arguments.start_paused {
        let value = paused.value;
        code.extend(quote_spanned!(paused.span=> #builder.start_paused(#value);));
    }
    if let Some(panic) = &arguments.unhandled_panic {
        let value = match panic.value {
            PanicResponse::Ignore => quote!(Ignore),
            PanicResponse::ShutdownRuntime => quote!(ShutdownRuntime),
        };
        code.extend(quote_spanned!(panic.span=> #builder.unhandled_panic(#runtime::UnhandledPanic::#value);));
    }
    if let Some(name) = &arguments.name {
        let value = &name.value;
        code.extend(quote_spanned!(name.span=> #builder.name(#value);));
    }
    code
}

/// Returns the expression of pollwatch's settings.
fn settings(arguments: &Arguments, attribute: Attribute, krate: &TokenStream) -> TokenStream {
    let entry = match attribute {
        Attribute::Main => quote!(Main),
        Attribute::Test => quote!(Test),
    };
    let mut settings = quote!(#krate::__private::#entry::new());
    if let Some(name) = &arguments.name {
        let value = &name.value;
        settings.extend(quote!(.name(#value)));
    }
    if let Some(threshold) = &arguments.threshold {
        let nanos = u64::try_from(threshold.value.as_nanos()).unwrap_or(u64::MAX);
        settings.extend(quote!(.threshold(::core::time::Duration::from_nanos(#nanos))));
    }
    if let Some(listen) = &arguments.listen {
        let value = listen.value.to_string();
        // The macro may refuse the argument, at its location.
        let span = Span::call_site().located_at(listen.span);
        let krate = krate.clone().into_iter().map(|mut token| {
            token.set_span(span);
            token
        });
        let krate: TokenStream = krate.collect();
        settings.extend(quote_spanned!(span=> .listen(#krate::__private::server_address!(#value))));
    }
    settings
}
