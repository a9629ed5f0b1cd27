"""Configuration of Sphinx."""

import importlib.metadata

# The agent's options must be registered before its hardware module is imported.
import ironic_python_agent.config  # noqa: F401

project = "ipa-snapshot"
copyright = "the ipa-snapshot authors"
version = release = importlib.metadata.version("ipa-snapshot")

extensions = ["openstackdocstheme", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "openstackdocs"
# The theme reads a Git remote and .gitreview otherwise; there need not be any.
openstackdocs_repo_name = "ipa-snapshot"
openstackdocs_bug_project = ""
openstackdocs_use_storyboard = False
openstackdocs_pdf_link = False
openstackdocs_auto_name = False
openstackdocs_auto_version = False
html_theme_options = {"display_badge": False, "show_other_versions": False}
