-- A search that prefers what is newer found an error where a passage was older than a thousand half-lives: the share that is left is
-- smaller than any number. It is nothing now.

set local role trunkline_owner;

do $$
declare
    name text := 'recall_passages';
    old  text := (select pg_get_functiondef(p.oid) from pg_proc p
                   where p.pronamespace = 'trunkline'::regnamespace and p.proname = name);
    new  text := regexp_replace(old, '0\.5 \^ \((greatest\(extract\(epoch from now\(\) - f\.created_at\), 0\)\s*'
                                     '/ extract\(epoch from p_half_life\))\)', '0.5 ^ least(\1, 1000)');
begin
    if new = old then
        raise exception '% does not let scores fade as expected', name;
    end if;
    execute new;
end
$$;
