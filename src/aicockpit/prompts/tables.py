"""One row per programming language: which syntax nodes a skeleton keeps, cuts or enters. Data only."""

from __future__ import annotations

import re
from types import MappingProxyType

from aicockpit.prompts.rows import Language, ends, names, roles

PYTHON = Language(
    name="python",
    grammar=("tree_sitter_python", "language"),
    suffixes=(".py", ".pyi", ".pyw"),
    roles=roles(
        **{"import": "import_statement import_from_statement future_import_statement"},
        function="function_definition",
        container="class_definition",
        value="type_alias_statement",
        open="if_statement elif_clause else_clause try_statement except_clause block",
        prefix="decorated_definition",
        statement="expression_statement",
        comment="comment",
    ),
    query="""(identifier) @ref
      [(import_statement) (import_from_statement)] @import
      (parameters (identifier) @local) (lambda_parameters (identifier) @local) (typed_parameter . (identifier) @local)
      [(default_parameter name: (identifier) @local) (typed_default_parameter name: (identifier) @local)]
      [(list_splat_pattern (identifier) @local) (dictionary_splat_pattern (identifier) @local)]
      (assignment left: (identifier) @local) (pattern_list (identifier) @local) (tuple_pattern (identifier) @local)
      (for_statement left: (identifier) @local) (for_in_clause left: (identifier) @local)
      (as_pattern_target (identifier) @local) (keyword_argument name: (identifier) @local)""",
    bodies=names(),
    stops=names("block"),
    lambdas=names("lambda"),
    groups=names(),
    members=names("block"),
    statement=re.compile(rb"[A-Za-z_][\w, ]*(?::[^=]|=(?!=))"),
    stub=" ...",
    line_comment="#",
    docstrings=True,
)

_JS_QUERY = """[(identifier) (property_identifier) (shorthand_property_identifier)] @ref
  [(import_statement) (export_statement source: (_))] @import
  (call_expression function: [(identifier) (import)] arguments: (arguments . (string) .)) @import
  (variable_declarator name: (identifier) @local) (formal_parameters (identifier) @local)
  (arrow_function parameter: (identifier) @local) (for_in_statement left: (identifier) @local)
  (catch_clause parameter: (identifier) @local)"""
_JS_ROLES = {
    "import": "import_statement",
    "function": "function_declaration generator_function_declaration method_definition",
    "container": "class_declaration class",
    "value": "lexical_declaration variable_declaration field_definition",
    "prefix": "export_statement",
    "statement": "expression_statement",
    "comment": "comment",
}
_JS_STATEMENT = re.compile(rb"(?:module\.)?exports\b[\w.\s]*=|[A-Z]\w*\.prototype\.\w+\s*=|[A-Z]\w*\.\w+\s*=(?!=)")

JAVASCRIPT = Language(
    name="javascript",
    grammar=("tree_sitter_javascript", "language"),
    suffixes=(".js", ".jsx", ".mjs", ".cjs"),
    roles=roles(**_JS_ROLES),
    query=_JS_QUERY,
    bodies=names("statement_block"),
    stops=names("statement_block"),
    lambdas=names("arrow_function function_expression generator_function"),
    groups=names("variable_declarator"),
    members=names("class_body"),
    statement=_JS_STATEMENT,
    stub=";",
    opener=" {",
    closer="}",
    indent="  ",
    family="script",
)

_TS_FIELDS = (
    " public_field_definition property_signature index_signature call_signature construct_signature import_alias"
)
_TS_ROLES = _JS_ROLES | {
    "function": _JS_ROLES["function"] + " function_signature method_signature abstract_method_signature",
    "container": "class_declaration abstract_class_declaration interface_declaration internal_module module",
    "value": "lexical_declaration variable_declaration" + _TS_FIELDS,
    "wide": "enum_declaration type_alias_declaration",
    "prefix": "export_statement ambient_declaration",
}
_TS_QUERY = (
    _JS_QUERY.replace("(formal_parameters (identifier) @local)", "(required_parameter pattern: (identifier) @local)")
    + " (type_identifier) @ref (optional_parameter pattern: (identifier) @local)"
)


def _typescript(name: str, function: str, suffixes: tuple[str, ...]) -> Language:
    return Language(
        name=name,
        grammar=("tree_sitter_typescript", function),
        suffixes=suffixes,
        roles=roles(**_TS_ROLES),
        query=_TS_QUERY,
        bodies=names("statement_block"),
        stops=names("statement_block"),
        lambdas=names("arrow_function function_expression generator_function"),
        groups=names("variable_declarator enum_body enum_assignment"),
        members=names("class_body interface_body statement_block"),
        statement=_JS_STATEMENT,
        ends=ends(";", "public_field_definition property_signature index_signature call_signature"),
        stub=";",
        opener=" {",
        closer="}",
        indent="  ",
        family="script",
    )


TYPESCRIPT = _typescript("typescript", "language_typescript", (".ts", ".mts", ".cts"))
TSX = _typescript("tsx", "language_tsx", (".tsx",))

GO = Language(
    name="go",
    grammar=("tree_sitter_go", "language"),
    suffixes=(".go",),
    roles=roles(
        **{"import": "import_declaration"},
        function="function_declaration method_declaration",
        container="type_spec",
        value="package_clause type_alias field_declaration method_elem type_elem",
        wide="const_declaration var_declaration",
        prefix="type_declaration",
        comment="comment",
    ),
    query="""[(identifier) (type_identifier) (field_identifier)] @ref (import_spec) @import
      (parameter_declaration name: (identifier) @local) (range_clause left: (expression_list (identifier) @local))
      (short_var_declaration left: (expression_list (identifier) @local)) (var_spec name: (identifier) @local)""",
    bodies=names("block"),
    stops=names("block"),
    lambdas=names("func_literal"),
    groups=names("const_spec var_spec"),
    members=names("field_declaration_list interface_type"),
    statement=re.compile(rb"(?!)"),
    opener=" {",
    closer="}",
    indent="\t",
    joiner="; ",
)

RUST = Language(
    name="rust",
    grammar=("tree_sitter_rust", "language"),
    suffixes=(".rs",),
    roles=roles(
        **{"import": "use_declaration extern_crate_declaration"},
        function="function_item function_signature_item macro_definition",
        container="struct_item union_item trait_item impl_item mod_item foreign_mod_item",
        value="const_item static_item type_item associated_type field_declaration ordered_field_declaration_list",
        wide="enum_item",
        note="attribute_item",
        comment="line_comment block_comment",
    ),
    query="""[(identifier) (type_identifier) (field_identifier)] @ref
      [(use_declaration) (mod_item !body)] @import
      (parameter pattern: (identifier) @local) (let_declaration pattern: (identifier) @local)
      (closure_parameters (identifier) @local) (for_expression pattern: (identifier) @local)
      (tuple_pattern (identifier) @local)""",
    bodies=names("block"),
    stops=names("block macro_rule {"),
    lambdas=names("closure_expression"),
    groups=names("enum_variant_list enum_variant"),
    members=names("field_declaration_list declaration_list"),
    ends=ends(",", "field_declaration"),
    forward=names("mod_item"),
    statement=re.compile(rb"(?!)"),
    stub=";",
    opener=" {",
    closer="}",
)

JAVA = Language(
    name="java",
    grammar=("tree_sitter_java", "language"),
    suffixes=(".java",),
    roles=roles(
        **{"import": "import_declaration"},
        function="method_declaration constructor_declaration compact_constructor_declaration "
        "annotation_type_element_declaration",
        container="class_declaration interface_declaration enum_declaration record_declaration "
        "annotation_type_declaration",
        value="package_declaration field_declaration constant_declaration enum_constant",
        open="enum_body_declarations",
        comment="block_comment line_comment",
    ),
    query="""[(identifier) (type_identifier)] @ref (import_declaration) @import
      (formal_parameter name: (identifier) @local) (enhanced_for_statement name: (identifier) @local)
      (local_variable_declaration declarator: (variable_declarator name: (identifier) @local))
      (lambda_expression parameters: (identifier) @local) (catch_formal_parameter name: (identifier) @local)""",
    bodies=names("block class_body constructor_body"),
    stops=names("block constructor_body"),
    lambdas=names("lambda_expression"),
    groups=names("variable_declarator"),
    members=names("class_body interface_body enum_body annotation_type_body"),
    ends=ends(",", "enum_constant"),
    statement=re.compile(rb"(?!)"),
    stub=";",
    opener=" {",
    closer="}",
)

_C_ROLES = {
    "import": "preproc_include",
    "function": "function_definition",
    "container": "struct_specifier union_specifier",
    "value": "declaration field_declaration preproc_def preproc_function_def",
    "wide": "enum_specifier type_definition",
    "open": "preproc_if preproc_ifdef preproc_else preproc_elif linkage_specification declaration_list",
    "comment": "comment",
}
_C_QUERY = """[(identifier) (type_identifier) (field_identifier)] @ref (preproc_include) @import
  (parameter_declaration declarator: (identifier) @local)
  (parameter_declaration declarator: (pointer_declarator declarator: (identifier) @local))
  (init_declarator declarator: (identifier) @local) (declaration declarator: (identifier) @local)
  (init_declarator declarator: (pointer_declarator declarator: (identifier) @local))
  (declaration declarator: (pointer_declarator declarator: (identifier) @local))"""

C = Language(
    name="c",
    grammar=("tree_sitter_c", "language"),
    suffixes=(".c",),
    roles=roles(**_C_ROLES),
    query=_C_QUERY,
    bodies=names("compound_statement"),
    stops=names("compound_statement preproc_arg"),
    lambdas=names("preproc_function_def"),
    groups=names("enumerator_list enumerator"),
    members=names("field_declaration_list"),
    ends=ends(";", "enum_specifier"),
    forward=names("struct_specifier union_specifier"),
    statement=re.compile(rb"(?!)"),
    stub=";",
    opener=" {",
    closer="};",
    indent="  ",
    family="c",
)

CPP = Language(
    name="cpp",
    grammar=("tree_sitter_cpp", "language"),
    suffixes=(".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".inl", ".ipp", ".cu", ".cuh"),
    roles=roles(
        **_C_ROLES
        | {
            "container": "class_specifier struct_specifier union_specifier namespace_definition",
            "value": _C_ROLES["value"] + " access_specifier alias_declaration friend_declaration concept_definition "
            "using_declaration",
            "prefix": "template_declaration",
        }
    ),
    query=_C_QUERY + " (parameter_declaration declarator: (reference_declarator (identifier) @local))",
    bodies=names("compound_statement field_initializer_list"),
    stops=names("compound_statement field_initializer_list try_statement preproc_arg"),
    lambdas=names("lambda_expression preproc_function_def"),
    groups=names("enumerator_list enumerator"),
    members=names("field_declaration_list declaration_list"),
    ends=MappingProxyType({"enum_specifier": ";", "access_specifier": ":"}),
    forward=names("class_specifier struct_specifier union_specifier"),
    statement=re.compile(rb"(?!)"),
    stub=";",
    opener=" {",
    closer="};",
    indent="  ",
    family="c",
)

CSHARP = Language(
    name="csharp",
    grammar=("tree_sitter_c_sharp", "language"),
    suffixes=(".cs",),
    roles=roles(
        **{"import": "using_directive"},
        function="method_declaration constructor_declaration destructor_declaration operator_declaration "
        "conversion_operator_declaration",
        container="class_declaration interface_declaration struct_declaration record_declaration namespace_declaration",
        value="field_declaration event_field_declaration property_declaration indexer_declaration "
        "event_declaration delegate_declaration file_scoped_namespace_declaration",
        wide="enum_declaration",
        open="declaration_list preproc_if preproc_else preproc_region",
        comment="comment",
    ),
    query="""(identifier) @ref (using_directive) @import (parameter name: (identifier) @local)
      (local_declaration_statement (variable_declaration (variable_declarator name: (identifier) @local)))
      (foreach_statement left: (identifier) @local) (catch_declaration name: (identifier) @local)""",
    bodies=names("block arrow_expression_clause"),
    stops=names("block arrow_expression_clause constructor_initializer"),
    lambdas=names("lambda_expression anonymous_method_expression"),
    groups=names("variable_declaration variable_declarator enum_member_declaration_list enum_member_declaration"),
    members=names("declaration_list"),
    statement=re.compile(rb"(?!)"),
    stub=";",
    opener=" {",
    closer="}",
)

RUBY = Language(
    name="ruby",
    grammar=("tree_sitter_ruby", "language"),
    suffixes=(".rb", ".rake", ".gemspec"),
    roles=roles(
        function="method singleton_method",
        container="class module singleton_class",
        statement="call assignment identifier alias",
        open="body_statement",
        comment="comment",
    ),
    query="""[(identifier) (constant)] @ref (call !receiver arguments: (argument_list . (string) .)) @import
      (method_parameters (identifier) @local) (block_parameters (identifier) @local)
      (optional_parameter name: (identifier) @local) (keyword_parameter name: (identifier) @local)
      (assignment left: (identifier) @local)""",
    bodies=names("do_block block"),
    stops=names("body_statement end = ;"),
    lambdas=names("lambda"),
    groups=names(),
    members=names("body_statement"),
    statement=re.compile(
        rb"[A-Z]\w*\s*=(?!=)|(?:require(?:_relative)?|include|extend|prepend|attr_\w+|has_\w+|belongs_to|scope|delegate"
        rb"|alias\w*|module_function|private(?:_\w+)?|protected|public|using|validates?\w*|define_method)\b"
    ),
    closer="end",
    indent="  ",
    line_comment="#",
)

PHP = Language(
    name="php",
    grammar=("tree_sitter_php", "language_php"),
    suffixes=(".php",),
    roles=roles(
        **{"import": "namespace_use_declaration"},
        function="function_definition method_declaration",
        container="class_declaration interface_declaration trait_declaration enum_declaration namespace_definition",
        value="const_declaration property_declaration enum_case use_declaration",
        open="compound_statement if_statement",
        statement="expression_statement",
        comment="comment",
    ),
    query="""(name) @ref (variable_name (name) @local)
      [(namespace_use_declaration) (require_once_expression) (require_expression) (include_expression)
       (include_once_expression)] @import""",
    bodies=names("compound_statement"),
    stops=names("compound_statement"),
    lambdas=names("arrow_function anonymous_function"),
    groups=names("const_element property_element"),
    members=names("declaration_list enum_declaration_list compound_statement"),
    statement=re.compile(rb"(?:define\s*\(|require|include)"),
    stub=";",
    opener=" {",
    closer="}",
)

LANGUAGES = (PYTHON, TYPESCRIPT, TSX, JAVASCRIPT, GO, RUST, JAVA, C, CPP, CSHARP, RUBY, PHP)
