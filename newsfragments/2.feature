Attachments, end to end: a document's binary attachments are sealed once into an encrypted local store, uploaded to a server that can read none of it, and fetched and verified again.
