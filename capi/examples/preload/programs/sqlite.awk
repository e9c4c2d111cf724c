# A session of sqlite3: rows inserted one statement at a time, indexes, queries, a vacuum.
BEGIN {
    srand(1)
    print "PRAGMA page_size = 4096;"
    print "CREATE TABLE flow"
    print "    (id INTEGER PRIMARY KEY, source TEXT, port INTEGER, bytes REAL, note TEXT);"
    print "BEGIN;"
    for (row = 1; row <= rows; row++)
        printf "INSERT INTO flow VALUES (%d, '10.%d.%d.%d', %d, %.3f, '%s');\n", row,
            rand() * 4, rand() * 256, rand() * 256, rand() * 65536, rand() * 1e6,
            text(rand() * 60)
    print "COMMIT;"
    print "CREATE INDEX by_source ON flow (source, port);"
    print "CREATE INDEX by_bytes ON flow (bytes);"
    print "SELECT count(*), sum(port), total(bytes), max(length(note)) FROM flow;"
    print "SELECT substr(source, 1, 5) AS net, count(*), avg(bytes) FROM flow"
    print "    GROUP BY net ORDER BY net;"
    print "SELECT a.id, b.id FROM flow a JOIN flow b USING (source, port)"
    print "    WHERE a.id < b.id ORDER BY 1, 2;"
    print "SELECT id, source FROM flow WHERE note LIKE '%abc%' ORDER BY bytes DESC LIMIT 50;"
    print "SELECT id, rank() OVER (PARTITION BY port % 16 ORDER BY bytes) AS place FROM flow"
    print "    ORDER BY place DESC, id LIMIT 50;"
    print "SELECT json_group_array(json_object('id', id, 'note', note)) FROM flow"
    print "    WHERE id % 97 = 0;"
    print "UPDATE flow SET note = note || hex(zeroblob(port % 300)) WHERE port % 7 = 0;"
    print "DELETE FROM flow WHERE id % 3 = 0;"
    print "VACUUM;"
    print "PRAGMA integrity_check;"
    print "SELECT * FROM flow ORDER BY id;"
}

function text(length_wanted,    result) {
    result = ""
    while (length(result) < length_wanted)
        result = result sprintf("%c", 97 + rand() * 8)
    return result
}
