"""Results as rows, tables, figures and the report's page."""
