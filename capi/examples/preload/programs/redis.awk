# Commands that fill a redis database with a known content, of all types.
BEGIN {
    srand(1)
    for (key = 0; key < keys; key++) {
        size = rand() * 400
        value = sprintf("%0*d", size + 1, key)
        print "SET string:" key " " value
        print "APPEND string:" int(rand() * keys) " " substr(value, 1, 40)
        print "HSET hash:" key % 500 " field:" key " " value
        print "RPUSH list:" key % 300 " " value
        print "SADD set:" key % 200 " member:" int(rand() * keys)
        print "ZADD zset:" key % 100 " " int(rand() * 1000) " member:" key
        print "XADD stream:" key % 50 " " key + 1 "-1 field " value
        if (key % 5 == 0)
            print "DEL string:" int(rand() * keys)
    }
}
