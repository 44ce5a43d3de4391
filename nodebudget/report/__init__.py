"""Values in; text, pictures and HTML pages out."""
