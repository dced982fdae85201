"""CTranslate2 in this process."""
